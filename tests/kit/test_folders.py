"""The folders that both machines have: kept by git, and nothing in them."""

import subprocess

import pytest

from support.checkout import ROOT

KEPT = ("data/raw", "data/processed", "data/synthetic", "models", "adapters")


def git(*words):
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this copy is no git checkout")
    return done


@pytest.mark.parametrize("folder", KEPT)
def test_git_keeps_the_folder_and_nothing_in_it(folder):
    assert git("ls-files", folder).stdout.split() == [f"{folder}/.gitkeep"]
    assert git("check-ignore", "-q", f"{folder}/something").returncode == 0
    assert git("check-ignore", "-q", f"{folder}/deep/something.bin").returncode == 0
    assert git("check-ignore", "-q", f"{folder}/.gitkeep").returncode == 1


@pytest.mark.parametrize(
    "secret",
    [".env", ".env.local", ".credentials/tensor01.credentials", "host.key", "id_ed25519", "x.pem"],
)
def test_secrets_are_ignored_wherever_they_lie(secret):
    assert git("check-ignore", "-q", secret).returncode == 0
    assert git("check-ignore", "-q", f"configs/{secret}").returncode == 0
