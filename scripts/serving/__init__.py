"""The serving room: one base with its adapters behind an OpenAI-compatible API.

model_catalog.py  which versions are served, checked and loaded
live_versions.py  versions that come into the store while it runs
engine.py         continuous batching: batch.py, sampling.py, answer_text.py
json_schema.py    response_format: json_grammar.py, token_guide.py, answer_shape.py
openai_api.py     the routes; chat_request.py (requests), tool_calls.py, prometheus.py
service.py        the model behind the routes: limits, prompts, one request's answers
server_app.py     create_app(service), and the process that answers until a signal comes
web.py            for both servers (the panel is the other): token, socket, guard; api_errors.py the
                  form of errors, connections.py the bounds before a request is parsed
"""
