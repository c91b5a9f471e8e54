#!/usr/bin/env python3
"""A stand-in for `vllm`, which needs an NVIDIA GPU: its command line and HTTP API, no model.

It answers with what it was asked, so that tests see what reached it. FAIL=1: it ends at once.
"""

import itertools
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOADING = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").lower() in ("1", "true")
KEY = os.environ.get("VLLM_API_KEY", "")
WORDS = sys.argv[1:]


def option(name):
    return WORDS[WORDS.index(name) + 1]


def at_start():
    """The names it answers to: the base, and each NAME=PATH of --lora-modules."""
    names = {option("--served-model-name")}
    if "--lora-modules" in WORDS:
        after = WORDS[WORDS.index("--lora-modules") + 1 :]
        names |= {word.partition("=")[0] for word in itertools.takewhile(is_value, after)}
    return names


def is_value(word):
    return not word.startswith("--")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send(self, status, body, kind="application/json"):
        raw = body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        if self.path == "/health":
            return self.send(200, "")
        return self.send(200, json.dumps({"data": [{"id": "x", "max_model_len": 4096}]}))

    def load(self, name, path):
        """As vLLM 0.19 does: a name once, a folder that is there; the answer is text."""
        if name in NAMES:
            error = {"message": f"The lora adapter '{name}' has already been loaded."}
            return self.send(400, json.dumps({"error": error}))
        if not os.path.isfile(os.path.join(path, "adapter_config.json")):
            error = {"message": f"Loading lora {name} failed: No adapter found for {path}"}
            return self.send(404, json.dumps({"error": error}))
        NAMES.add(name)
        return self.send(200, f"Success: LoRA adapter '{name}' added successfully.", "text/plain")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {KEY}":
            return self.send(401, '{"error": {"message": "no key"}}')
        if self.path == "/v1/load_lora_adapter" and LOADING:
            return self.load(asked["lora_name"], asked["lora_path"])
        if asked.get("model") not in NAMES:
            error = {"message": f"The model `{asked.get('model')}` does not exist."}
            return self.send(404, json.dumps({"error": error}))
        if asked.get("temperature") == 9:
            error = {"message": "temperature must be at most 2", "type": "BadRequestError"}
            return self.send(400, json.dumps({"error": error | {"param": "temperature"}}))
        if asked.get("temperature") == 8:
            os._exit(3)
        if asked.get("temperature") == 7:
            time.sleep(60)
        text = json.dumps({"asked": asked, "words": WORDS})
        if asked.get("stream"):
            chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
            return self.send(200, f"data: {chunk}\n\ndata: [DONE]\n\n", "text/event-stream")
        message = {"role": "assistant", "content": text}
        return self.send(200, json.dumps({"id": "c", "object": "chat.completion", "created": 1,
                         "model": asked["model"], "choices": [{"index": 0, "message": message,
                         "finish_reason": "stop"}]}))  # fmt: skip

    def log_message(self, *_):
        pass


if os.environ.get("FAIL"):
    sys.exit("no GPU here")
NAMES = at_start()
ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
