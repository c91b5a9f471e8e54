"""The serving room: one base with its adapters behind an OpenAI-compatible API.

models.py     which versions are served, checked and loaded
engine.py     continuous batching: batch.py (rows over one KV cache), sampling.py, text.py
openai_api.py the routes; schemas.py (requests), tool_calls.py, errors.py, metrics.py
app.py        create_app(service): guards, routers, what a later room adds
"""
