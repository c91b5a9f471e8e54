"""Stages: their lines, the cause of a failure, and the pulse of a long one."""

import sys

import pytest

from kit import console
from workflow import stages


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["data_prep.py: bad rows: 1; fix them"], "data_prep.py: bad rows: 1; fix them"),
        (
            ["==> NVIDIA driver and GPU", "FAIL  gpu  no driver", "      fix: install 535",
             "setup_remote.sh: stopped at: NVIDIA driver and GPU"],
            "gpu: no driver; install 535",
        ),
        (
            ["FAIL  disk  3 GB free", "      fix: free 9 GB", "2 ok, 0 warn, 1 fail, 0 skip"],
            "disk: 3 GB free; free 9 GB",
        ),
        (["uv: no space left", "setup_local.sh: stopped at: Packages"], "uv: no space left"),
        (["setup_local.sh: stopped at: Packages"], "setup_local.sh: stopped at: Packages"),
        (["FAIL  old  a check", "eval.py: no such run"], "eval.py: no such run"),
        ([], ""),
    ],
)  # fmt: skip
def test_the_cause_of_a_failure_is_its_last_line(lines, cause):
    assert stages.split_cause(lines)[0] == cause


def shell(text):
    return ["sh", "-c", text]


def test_a_failed_command_names_stage_cause_and_log_and_keeps_its_exit_code(tmp_path, capsys):
    series = stages.StageSeries(tmp_path)
    script = (
        "echo one >&2; echo 'x.sh: no host; name one' >&2; echo 'x.sh: stopped at: S' >&2; exit 2"
    )
    with pytest.raises(stages.StageFailed) as failure, series.stage("sync up") as stage:
        stage.run(shell(script))
    assert failure.value.text == "sync up: x.sh: no host; name one"
    assert failure.value.remedy == f"the whole output is in {tmp_path / '01-sync-up.txt'}"
    assert failure.value.code == console.MISUSED
    streams = capsys.readouterr()
    assert streams.out.startswith("FAIL  sync up") and streams.err == "      one\n"


@pytest.mark.parametrize("answer", ["", "no json", "{", '{"a": ' * 5000])
def test_a_command_without_a_result_is_one_line(tmp_path, answer):
    (tmp_path / "answer").write_text(answer)
    with (
        pytest.raises(stages.StageFailed, match="data: cat printed no result"),
        stages.StageSeries(tmp_path / "log").stage("data") as stage,
    ):
        stage.json(["cat", tmp_path / "answer"])


def test_control_sequences_of_a_command_do_not_reach_the_terminal(tmp_path, capsys):
    with stages.StageSeries(tmp_path).stage("data") as stage:
        stage.set_fact("\x1b]0;owned\x07 12 rows")
    assert "\x1b" not in capsys.readouterr().out


def test_a_long_stage_shows_its_time_and_last_line_without_a_terminal(tmp_path, monkeypatch):
    lines, shown = [], stages.threading.Event()

    def note(text):
        lines.append(text)
        if "still here" in text:
            shown.set()

    monkeypatch.setattr(stages, "PULSE_SECONDS", 0.01)
    monkeypatch.setattr(console, "note", note)
    with stages.StageSeries(tmp_path).stage("train") as stage:
        stage.run([sys.executable, "-c", "import sys; print('still here', file=sys.stderr)"])
        assert shown.wait(30)
    assert any(line.strip().startswith("train") for line in lines)
