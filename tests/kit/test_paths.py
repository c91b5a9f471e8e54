import json

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


def test_variables_replace_host_and_remote_dir(command):
    assert command("paths.py", "remote_dir", env={"REMOTE_DIR": "work"}).stdout == "work\n"
    both = {"REMOTE_DIR": "work", "TANDEM_REMOTE_DIR": "own"}
    assert command("paths.py", "remote_dir", env=both).stdout == "own\n"
    done = command("paths.py", "host", env={"TANDEM_HOST": "gpu7"})
    assert done.stdout == "gpu7\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"folders": {}, "folders": {}}', "'folders' stands twice"),
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
def test_a_broken_configuration_is_one_line(tmp_path, text, said):
    from kit import console

    path = tmp_path / "paths_config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(console.Misuse, match=said.replace("?", r"\?")):
        paths.load(path)


def test_the_environment_must_be_local_or_remote(command):
    done = command("paths.py", env={"TANDEM_ENV": "moon"})
    assert done.returncode == 2 and "local or remote" in done.stderr
