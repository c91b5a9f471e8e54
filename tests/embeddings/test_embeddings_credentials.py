"""Credentials: what is wrong with a file is named, and the secret in it is never repeated."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from embeddings import credentials
from kit import console
from support.checkout import ROOT

SECRET = "hunter2 s3cret"
GOOD = {"address": "10.0.0.7", "username": "mapper", "password": SECRET}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".credentials").mkdir()
    (tmp_path / "key").write_text("a key")
    return tmp_path / ".credentials"


def write(folder, values, mode=0o600):
    path = folder / "tensor01.credentials"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    path.chmod(mode)
    return path


def test_a_password_file_gives_the_default_folder_and_keeps_its_secret_to_itself(folder):
    path = write(folder, GOOD)
    cluster = credentials.find("tensor01", folder)
    assert (cluster.address, cluster.username, cluster.port) == ("10.0.0.7", "mapper", 22)
    assert cluster.remote_dir == "/home/mapper/mapper_embeddings/embeddings"
    assert cluster.secret == path.resolve() and cluster.key_file is None
    assert SECRET not in repr(cluster)


def test_a_key_file_with_port_and_folder_is_used(folder):
    more = {"key_file": "key", "port": 2222, "remote_dir": "/scratch/e"}
    write(folder, {"address": "tensor.example.org", "username": "m"} | more)
    cluster = credentials.find("tensor01", folder)
    assert (cluster.port, cluster.remote_dir, cluster.secret) == (2222, "/scratch/e", None)
    assert cluster.key_file == folder.parent / "key"
    assert credentials.find("tensor01", folder, "elsewhere").remote_dir == "elsewhere"


def test_a_plain_ssh_name_needs_no_file(folder):
    cluster = credentials.find("me@10.0.0.7", folder)
    assert (cluster.address, cluster.secret, cluster.folder) == (None, None, None)
    assert cluster.remote_dir == "mapper_embeddings/embeddings"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700 | 0o010])
def test_a_file_that_others_can_read_is_refused_with_the_command_that_mends_it(folder, mode):
    path = write(folder, GOOD, mode)
    with pytest.raises(console.Misuse, match=f"mode {mode:04o} lets others read it; chmod 600"):
        credentials.find("tensor01", folder)
    path.chmod(0o400)
    credentials.find("tensor01", folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "broken JSON"),
        (f'{{"password": "{SECRET}" "address"}}', "broken JSON"),
        ("", "broken JSON"),
        ("[1]", "not a JSON object"),
        ('{"password": "a", "password": "b"}', "a field is given twice"),
        ("[" * 100_000, "broken JSON"),
        ("\ud800".encode("utf-16", "surrogatepass").hex(), "broken JSON"),
        ({**GOOD, "adress": "x"}, "unknown field 'adress'; did you mean address?"),
        ({"password": SECRET}, "missing: address, username"),
        ({"address": "a", "username": "b"}, "missing: password or key_file"),
        ({**GOOD, "key_file": "key"}, "both password and key_file"),
        ({**GOOD, "password": 7}, "password must be a text"),
        ({**GOOD, "password": ""}, "password must be a text"),
        ({**GOOD, "password": f"{SECRET}\n"}, "password holds a line break"),
        ({**GOOD, "port": "22"}, "port must be a number"),
        ({**GOOD, "port": 70000}, "port must be 1 to 65535"),
        ({**GOOD, "port": True}, "port must be a number"),
        ({**GOOD, "address": "-oProxyCommand=x"}, "address is not a host name"),
        ({**GOOD, "address": f"a {SECRET}"}, "address is not a host name"),
        ({**GOOD, "username": "me; id"}, "username is not a user name"),
        ({**GOOD, "remote_dir": "/a b"}, "cannot be passed on safely"),
        ({**GOOD, "remote_dir": "/a/../b"}, "cannot be passed on safely"),
        ({**GOOD, "remote_dir": "$(id)"}, "cannot be passed on safely"),
        ({"address": "a", "username": "b", "key_file": "gone"}, "gone does not exist"),
        (
            {"address": "a", "username": "b", "key_file": 'k"\n'},
            "key_file holds a quote, a line",
        ),
    ],
)
def test_a_wrong_file_is_a_misuse_that_names_the_file_and_not_the_secret(folder, values, message):
    path = write(folder, values)
    with pytest.raises(console.Misuse) as caught:
        credentials.find("tensor01", folder)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert caught.value.code == console.MISUSED
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["-oProxyCommand=id", "a b", "$(id)", "a;b", "tensor01:x", ""])
def test_a_name_that_is_no_host_is_refused(folder, name):
    with pytest.raises(console.Misuse, match="is not a host name"):
        credentials.find(name, folder)


def ask(path, prompt):
    words = [sys.executable, "-I", ROOT / "scripts/embeddings/askpass.py", path, prompt]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_helper_answers_questions_about_a_password_and_no_other(folder):
    path = write(folder, GOOD)
    assert ask(path, "mapper@10.0.0.7's password: ").stdout == SECRET + "\n"
    assert ask(path, "(mapper@10.0.0.7) Password:").stdout == SECRET + "\n"
    for prompt in (
        "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
        "Enter passphrase for key '/home/me/.ssh/id_ed25519': ",
    ):
        done = ask(path, prompt)
        assert done.returncode == 1 and done.stdout == ""
