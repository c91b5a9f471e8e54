#!/usr/bin/env python3
"""A stand-in for `vllm`, which needs an NVIDIA GPU: its command line and HTTP API, no model.

It answers with what it was asked, so that tests see what reached it. FAIL=1: it ends at once.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = os.environ.get("VLLM_API_KEY", "")
WORDS = sys.argv[1:]


def option(name):
    return WORDS[WORDS.index(name) + 1]


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

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {KEY}":
            return self.send(401, '{"error": {"message": "no key"}}')
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
ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
