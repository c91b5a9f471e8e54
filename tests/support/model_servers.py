"""The model server as users run it, and OpenAI's own client asking it."""

import json
import os
import re
import subprocess
import sys

from support import served_models
from support.checkout import ROOT

SERVER = str(ROOT / "scripts" / "model_server.py")
PATIENCE = 120
QUESTION = [{"role": "user", "content": "Weather in Oslo on day 3?"}]
WEATHER, TOOLS, ENDLESS = "weather-lora@v1.0.0", "tool-lora@v1.0.0", "endless-lora@v1.0.0"


class RunningServer:
    """scripts/model_server.py as a process; `url` is what it printed when it was ready."""

    def __init__(self, work, *options, checkpoints=served_models.NAMES, words=None):
        chosen = [word for name in checkpoints for word in ("--checkpoint", name)]
        usual = [sys.executable, SERVER, *chosen, "--port", "0", "--json", "--dtype", "float32"]
        words = words or usual
        env = os.environ | {"TANDEM_WORKDIR": str(work), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*words, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.facts = json.loads(line)
        self.url = self.facts["url"]
        self.root = self.url.removesuffix("/v1")

    def client(self, **options):
        import openai

        options = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE} | options
        return openai.OpenAI(base_url=self.url, **options)

    def metric(self, name):
        """A value of /metrics; 0 where it is not listed yet."""
        import httpx

        text = httpx.get(f"{self.root}/metrics").text
        value = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(value[1]) if value else 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def ask(server: RunningServer, model=WEATHER, messages=QUESTION, temperature=0, **options):
    """One chat completion, by OpenAI's client."""
    client = server.client()
    return client.chat.completions.create(
        model=model, messages=messages, temperature=temperature, **options
    )


def texts(answer) -> list[str]:
    """What each choice says."""
    return [choice.message.content for choice in answer.choices]
