"""validate finds secrets that git tracks or would take, and prints none."""

import shutil
import subprocess

import pytest

from checks import leaks, probe
from support.checkout import ROOT
from support.small_checkout import TOKEN

pytestmark = pytest.mark.slow  # a command in a copy of the kit, each time


def test_a_secret_that_git_tracks_fails_and_is_not_printed(validate, kit):
    (kit.root / "id_ed25519").write_text(TOKEN)
    kit.git("add", "-f", "id_ed25519")
    code, checks = validate()
    assert code == 1
    assert checks["secrets tracked"]["fix"].startswith("git rm --cached id_ed25519")


def test_a_secret_that_git_would_take_fails(validate, kit):
    (kit.root / ".gitignore").write_text("")
    (kit.root / "token.txt").write_text("nothing")
    code, checks = validate()
    assert code == 1 and "not ignored by git: token.txt" in checks["secrets not ignored"]["found"]


def test_a_token_inside_an_innocent_file_fails(validate, kit):
    (kit.root / "notes.md").write_text(f"my token: {TOKEN}\n")
    code, checks = validate()
    assert code == 1 and checks["secrets in files"]["found"] == "a key or token is in notes.md"


def test_ignored_secrets_are_good_while_others_cannot_read_them(validate, kit):
    secret = kit.root / ".credentials" / "hf"
    secret.parent.mkdir()
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    assert validate()[1]["secrets"]["status"] == "ok"
    secret.chmod(0o644)
    assert validate()[1]["secrets readable"]["fix"] == "chmod 600 .credentials/hf"


def test_outside_a_git_checkout_the_search_is_skipped(validate, kit):
    shutil.rmtree(kit.root / ".git")
    code, checks = validate(GIT_CEILING_DIRECTORIES=kit.root.parent)
    assert code == 0 and checks["secrets"]["status"] == "skip"


def test_a_checkout_of_another_user_is_not_called_clean(validate, kit):
    dubious = "fatal: detected dubious ownership in repository at '/x'"
    nothing = probe.ProgramAnswer(128, "")
    (check,) = leaks.check(probe.ProgramAnswer(128, dubious), nothing, nothing, kit.root)
    assert check.status == "warn" and "another user" in check.found
    assert check.fix == f"git config --global --add safe.directory {kit.root}"


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"])
def test_variables_of_git_do_not_lead_it_elsewhere(name, validate, kit):
    (kit.root / "notes.md").write_text(f"my token: {TOKEN}\n")
    code, checks = validate(**{name: "/nonexistent"})
    assert code == 1 and "notes.md" in checks["secrets in files"]["found"]


@pytest.mark.parametrize("setting", ["submodule.recurse=true", "color.ui=always"])
def test_a_users_git_configuration_does_not_blind_the_search(setting, validate, kit, tmp_path):
    (kit.root / "notes.md").write_text(f"my token: {TOKEN}\n")
    subprocess.run(["git", "config", "-f", tmp_path / "gitconfig", *setting.split("=")], check=True)
    code, checks = validate(GIT_CONFIG_GLOBAL=tmp_path / "gitconfig")
    assert code == 1 and checks["secrets in files"]["found"].endswith("is in notes.md")


def test_a_search_that_fails_is_said(kit):
    listing, failed = probe.ProgramAnswer(0, ""), probe.ProgramAnswer(128, "fatal: bad index")
    (check,) = leaks.check(listing, listing, failed, kit.root)
    assert check.status == "warn" and "fatal: bad index" in check.found


def test_the_kit_itself_holds_no_secret():
    search = subprocess.run(leaks.COMMANDS["git values"], cwd=ROOT, capture_output=True, text=True)
    assert search.returncode in (1, 128), search.stdout


def test_a_token_in_a_variable_is_named_and_not_printed(validate):
    _, checks = validate(HF_TOKEN=TOKEN)
    assert checks["HF token"]["found"] == "there (HF_TOKEN)"


def test_a_token_file_that_others_can_read_warns(validate, tmp_path):
    file = tmp_path / "caches" / "HF_HOME" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert validate()[1]["HF token"]["fix"] == f"chmod 600 {file}"
    file.chmod(0o600)
    assert validate()[1]["HF token"]["status"] == "ok"
