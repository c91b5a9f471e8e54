"""docs/WORKFLOW.md, line by line: every command runs, in order, on a laptop and a host of folders.

The laptop is a copy of this checkout, the host a folder, the base model a miniature.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path
from time import monotonic, sleep

import pytest

from kit import jsonl
from serving.web import free_port
from support import tiny
from support.checkout import ROOT

GUIDE = ROOT / "docs" / "WORKFLOW.md"
# Set-up would build environments of gigabytes again: the named test of each room runs the command.
ELSEWHERE = {
    "make setup-local": (
        "tests/setup/setup_local.bats",
        "a first run makes folders and environment, a second one touches nothing",
        "run ./setup_local.sh",
    ),
    "make setup-remote HOST=gpu1": (
        "tests/setup/setup_remote.bats",
        "a host over ssh is set up, and its exit code comes back",
        "run ./setup_remote.sh gpu-test",
    ),
    "make rehearse RAW=my_texts": (
        "tests/workflow/test_trip.py",
        "test_the_whole_trip_works_on_real_headlines",
        "rehearse(RAW=",
    ),
}
DOWNLOAD = "-- .venv-remote/bin/hf download"  # here the miniature is put there instead
SERVERS = ("scripts/model_server.py", "scripts/panel.py")  # they run until they are ended


def commands() -> list[str]:
    """The indented lines of the guide, in order."""
    return re.findall(r"^    (\S.*)$", GUIDE.read_text(encoding="utf-8"), re.M)


def body_of(file: str, name: str) -> str:
    """The source of one test of a .bats or .py file; '' if there is none of that name."""
    text = (ROOT / file).read_text(encoding="utf-8")
    head = f'@test "{name}"' if file.endswith(".bats") else f"def {name}("
    return re.split(r"\n@test |\ndef |\n# bats |\n@pytest", text.partition(head)[2])[0]


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_another_test_runs_is_in_the_guide_and_that_test_runs_it(command):
    assert command in commands()
    file, name, call = ELSEWHERE[command]
    assert call in body_of(file, name)
    recipe = subprocess.run(
        ["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True
    ).stdout
    script = {"rehearse(RAW=": "pipeline.py --rehearse"}.get(call) or call.split()[1]
    assert script in recipe


def test_all_four_parts_have_commands():
    parts = GUIDE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert [part[:1] for part in parts] == ["1", "2", "2", "3", "4"]
    assert all(re.search(r"^    \S", part, re.M) for part in parts)


def test_a_command_without_a_test_is_noticed():
    assert body_of("tests/setup/setup_local.bats", "no such test") == ""
    assert body_of("tests/workflow/test_trip.py", "test_none") == ""


class Desk:
    """The laptop's folder, the host's, and how a line of the guide runs there."""

    def __init__(self, folder: Path):
        self.laptop, self.host, self.servers = folder / "laptop", folder / "host", []
        ports = {"8000": str(free_port()), "8765": str(free_port())}
        self.here = {"gpu1": str(self.host)} | ports
        gone = ("TANDEM_", "HOST", "RAW", "DRY_RUN", "CONFIRM", "MAKE")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(gone)}
        self.env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def git(self, *words: str) -> None:
        who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *who, *words], cwd=self.laptop, check=True, capture_output=True)

    def build(self) -> None:
        """A checkout of what git has here, its environments, texts, and a short training."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if listed.returncode:
            pytest.skip("this copy is no git checkout")
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (self.laptop / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.laptop / name)
        self.configure()
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "The laptop's checkout")
        for name in (".venv-local", ".venv-remote"):
            (self.laptop / name).symlink_to(ROOT / name)
        texts = self.laptop / "my_texts"
        texts.mkdir()
        jsonl.write(texts / "rows.jsonl", tiny.rows(240))

    def configure(self) -> None:
        """What the guide says to set by hand, and a training as small as its model."""
        import yaml

        path = self.laptop / "configs" / "training_config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        changes = tiny.SETTINGS | {"safety.dry_run": False}
        for key, value in changes.items():
            section, name = key.split(".")
            config[section][name] = value
        path.write_text(yaml.safe_dump(config), encoding="utf-8")

    def put_base_model(self) -> None:
        """What the download would do; and a laptop that has the base model too."""
        built = tiny.build(self.host.parent / "hub", steps=60)
        for checkout in (self.host / "tandem", self.laptop):
            shutil.copytree(built, checkout / "models" / "miniature")

    def words(self, line: str) -> str:
        """The line with this desk's host and ports."""
        return re.sub(r"\b(gpu1|8000|8765)\b", lambda match: self.here[match[0]], line)

    def run(self, line: str) -> None:
        done = subprocess.run(
            ["bash", "-c", self.words(line)], cwd=self.laptop, env=self.env, text=True,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"

    def serve(self, line: str) -> None:
        """Start a server that runs until it is ended; return when its page answers."""
        log = (self.laptop / "server.log").open("w+")
        process = subprocess.Popen(
            ["bash", "-c", "exec " + self.words(line)], cwd=self.laptop, env=self.env,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.servers.append(process)
        port = self.here["8765" if "panel.py" in line else "8000"]
        url = f"http://127.0.0.1:{port}{'/' if 'panel.py' in line else '/ready'}"
        deadline = monotonic() + 120
        while not answers(url):
            assert process.poll() is None and monotonic() < deadline, (
                self.laptop / "server.log"
            ).read_text()
            sleep(0.1)

    def close(self) -> None:
        for process in self.servers:
            process.send_signal(signal.SIGTERM)
        for process in self.servers:
            process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    made.build()
    made.host.mkdir()
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.remote_env
def test_every_command_of_the_guide_works_in_its_order(desk):
    for line in commands():
        if line == "make setup-remote HOST=gpu1":
            (desk.host / "tandem" / ".venv-remote").symlink_to(ROOT / ".venv-remote")
        if line in ELSEWHERE:
            continue
        if DOWNLOAD in line:
            desk.put_base_model()
        elif any(server in line for server in SERVERS):
            desk.serve(line)
        else:
            if "unpack mapper-lora-v1.0.0.zip" in line:  # test_build_notebook.py makes the real one
                desk.run('make adapters ARGS="pack mapper-lora --output mapper-lora-v1.0.0.zip"')
                shutil.rmtree(desk.laptop / "adapters" / "mapper-lora")
            desk.run(line)
    version = desk.laptop / "adapters" / "mapper-lora" / "v1.0.0"
    assert json.loads((version / "card.json").read_text())["gate"]["status"] != "unevaluated"
    assert (desk.laptop / "tandem.zip").is_file()
    for name in ("merged/model.safetensors", "ollama/Modelfile"):
        assert (desk.laptop / "models" / f"mapper-lora-{name}").is_file()
