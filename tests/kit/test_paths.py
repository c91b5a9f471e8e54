import json
import platform

import pytest

from kit import paths


def test_every_folder_lies_below_the_work_folder(command, tmp_path):
    values = json.loads(command("paths.py", "--json").stdout)
    assert values["data_raw"] == str(tmp_path / "data" / "raw")
    assert values["root"] == str(paths.ROOT)


def test_one_name_is_printed_alone(command, tmp_path):
    assert command("paths.py", "adapters").stdout == f"{tmp_path / 'adapters'}\n"


def test_an_unknown_name_says_the_nearest(command):
    done = command("paths.py", "adaptors")
    assert done.returncode == 2 and "did you mean adapters?" in done.stderr


@pytest.mark.parametrize("name", ["host", "remote_dir"])
def test_the_plain_variable_holds_before_tandems_and_that_before_the_file(command, name):
    plain, ours = name.upper(), f"TANDEM_{name.upper()}"
    assert command("paths.py", name, env={plain: "gpu7", ours: "gpu8"}).stdout == "gpu7\n"
    assert command("paths.py", name, env={ours: "gpu8"}).stdout == "gpu8\n"
    assert command("paths.py", name).stdout == {"host": "\n", "remote_dir": "tandem\n"}[name]


@pytest.mark.parametrize(
    "host", [platform.node(), "x86_64-conda-linux-gnu", "arm64-apple-darwin20.0.0"]
)
def test_a_host_that_another_program_set_is_not_used_and_that_is_said(command, host):
    done = command("paths.py", "host", env={"HOST": host, "TANDEM_HOST": "gpu8"})
    assert done.stdout == "gpu8\n"
    assert f"HOST={host} is not used" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"folders": {}, "folders": {}}', "'folders' occurs twice"),
        ('{"fodlers": {}}', "did you mean 'folders'?"),
        ('{"host": 3}', "host must be a string"),
        ('{"host": "a",', ":1: "),
        ("[]", "the file must be an object"),
        ("null", "the file must be an object"),
        ('{"environments": []}', "environments must be an object"),
        ('{"environments": {"local": 3}}', "local must be an object"),
        ('{"folders": {"models": 3}}', "models must be a string"),
        ("[" * 100_000, "not JSON in UTF-8"),
        ('{"host": "\udcff"}', "not JSON in UTF-8"),
    ],
)
def test_a_broken_configuration_is_one_line(tmp_path, text, expected):
    from kit import console

    path = tmp_path / "paths_config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(console.Misuse, match=expected.replace("?", r"\?")):
        paths.load(path)


def test_the_environment_must_be_local_or_remote(command):
    done = command("paths.py", env={"TANDEM_ENV": "moon"})
    assert done.returncode == 2 and "local or remote" in done.stderr
