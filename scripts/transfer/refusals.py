"""What ssh and a host say when they refuse, what it means, and what repairs it.

explain("gpu1", 255, stderr) -> Problem("gpu1: it refused the login (…)", "try ssh gpu1: …")
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kit import console
from transfer.ssh_configuration import timeout

# What each exit code of ssh and rsync asks for: these are the network, to be tried again.
NETWORK = {10, 12, 30, 35, 255}
# What rsync says of a connection into which a login prints.
_NOISY_LOGIN = "is your shell clean|protocol version mismatch|unexpected tag|unclean"
START_FILE = (
    "let it print only where the shell is interactive: in its start file (~/.bashrc, ~/.profile) "
    "put the output behind: case $- in *i*) …;; esac"
)
START_FILE_READS = (
    "let it read only where the shell is interactive: in its start file (~/.bashrc, ~/.profile) "
    "put what reads behind: case $- in *i*) …;; esac"
)


class Refusal(NamedTuple):
    """`pattern` in ssh's stderr; `final`: trying again cannot help; `login`: the host was reached,
    and took none of the keys and passwords. A pattern is compiled when a host refuses: every
    sync would wait for them."""

    pattern: str
    meaning: str
    remedy: str
    final: bool = False
    login: bool = False


class Refused(console.Problem):
    """A Refusal as the Problem of one host. `wants_more`: a password or a code would be taken."""

    def __init__(self, text: str, remedy: str, refusal: Refusal, wants_more: bool):
        super().__init__(text, remedy)
        self.refusal, self.wants_more = refusal, wants_more


# Ways to log in, as ssh lists them; a program there may put other words behind its own refusal.
_WAYS = r"(?:publickey|hostbased|gssapi-[a-z-]+|keyboard-interactive|password|none)(?:,|(?=\)))"
DENIED = rf"^(?:\S+: )?Permission denied \((?:{_WAYS})+\)\.?\s*$"
WANTS_MORE = DENIED.replace(
    r"\((?:", r"\((?=[a-z,-]*(?:keyboard-interactive|password))(?:", 1
)  # fmt: skip
# What both sides must have in common, as ssh names it, and the line of a Host block that adds one.
_METHODS = {
    "host key type": "HostKeyAlgorithms", "key exchange method": "KexAlgorithms", "MAC": "MACs",
}  # fmt: skip
# The first that matches counts. NAME, TIMEOUT and \1 are filled in.
REFUSALS = (
    Refusal(
        r"^Offending \S+ key in (.+):\d+\s*$[\s\S]*?^Host key for (\S+) has changed",
        "its host key is not the one this machine knows",
        "if the host was rebuilt, compare the new fingerprint and remove the old key "
        r"(ssh-keygen -R '\2' -f '\1'); if not, somebody may stand between: do not go on",
        final=True,
    ),
    Refusal(
        r"Host key for (\S+) has changed",
        "its host key is not the one this machine knows",
        "if the host was rebuilt, compare the new fingerprint and remove the old key "
        r"(ssh-keygen -R '\1'); if not, somebody may stand between: do not go on",
        final=True,
    ),
    Refusal(
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one this machine knows",
        "if the host was rebuilt, compare the new fingerprint and remove the old key "
        "(ssh-keygen -R NAME); if not, somebody may stand between: do not go on",
        final=True,
    ),
    Refusal(
        r"^The \S+ host key for \S+ is marked as revoked",
        "its host key is marked as revoked here",
        "ask the owner of the host for its new key: do not go on with this one",
        final=True,
    ),
    Refusal(
        "Host key verification failed",
        "its host key is not known here yet",
        "log in once with ssh and compare the fingerprint, or add --accept-new-host-key",
        final=True,
    ),
    Refusal(
        r"Permissions \d+ for '(.+)' are too open",
        r"ssh does not use the key \1: other users can read it",
        r"chmod 600 '\1'",
        final=True,
    ),
    Refusal(
        rf'^Load key "(.+)": ([^\r\n]+?)\s*$[\s\S]*?{DENIED}',
        r"it refused the login, and ssh cannot use the key \1 (\2)",
        "name the file of a private key of yours as IdentityFile in ~/.ssh/config",
        final=True,
        login=True,
    ),
    Refusal(
        WANTS_MORE,
        "it refused the login: another key, a password or a code is wanted",
        "check User and IdentityFile, or log in once: the same command in a terminal offers it and "
        "keeps the connection, as does ControlMaster with ControlPersist in ~/.ssh/config and ssh "
        "NAME; for a password alone TANDEM_SSH_PASSWORD_FILE names a 0600 file",
        final=True,
        login=True,
    ),
    Refusal(
        DENIED,
        "it refused the login",
        "try ssh with this name: check User and IdentityFile, ssh-add a key with a passphrase, or "
        "put a password into a 0600 file and its path into TANDEM_SSH_PASSWORD_FILE",
        final=True,
        login=True,
    ),
    Refusal(
        "Too many authentication failures",
        "it refused the login after too many keys",
        "name one key for it in ~/.ssh/config: IdentityFile and IdentitiesOnly yes",
        final=True,
        login=True,
    ),
    Refusal(
        r"Bad configuration option|Bad owner or permissions|terminating, \d+ bad",
        "the ssh configuration has an error",
        "correct the line that ssh names",
        final=True,
    ),
    *(
        Refusal(
            rf"Unable to negotiate with .*?: (no matching {what} found)\. Their offer: (\S+)",
            r"\1: it offers \2",
            rf"add it to the Host block in ~/.ssh/config ({line} +\2), or update sshd there",
            final=True,
        )
        for what, line in _METHODS.items()
    ),
    Refusal(
        "Unable to negotiate",
        "ssh here and sshd there have no method in common",
        "update sshd there",
        final=True,
    ),
    Refusal(
        "Could not resolve hostname",
        "no such name",
        "check the spelling, ~/.ssh/config and the network",
    ),
    Refusal(
        "Connection refused",
        "nothing listens on its ssh port",
        "check that the host is up, and HostName and Port in ~/.ssh/config",
    ),
    Refusal(
        "timed out",
        "no answer within TIMEOUT s",
        "check that the host is up and that the VPN or firewall lets ssh through",
    ),
)


def refusal_in(stderr: str) -> tuple[Refusal, re.Match] | None:
    """The Refusal that ssh's stderr names, and where."""
    for refusal in REFUSALS:
        if match := re.search(refusal.pattern, stderr, re.MULTILINE):
            return refusal, match
    return None


def is_noisy(stderr: str) -> bool:
    """Whether rsync met what a login prints into its connection."""
    return re.search(_NOISY_LOGIN, stderr) is not None


def is_final(stderr: str) -> bool:
    """Whether ssh failed in a way that another try cannot change."""
    known = refusal_in(stderr)
    return known is not None and known[0].final


def explain(name: str, code: int, stderr: str) -> Refused | None:
    """ssh's refusal as one line with its remedy; None where ssh itself did not fail."""
    known = refusal_in(stderr) if code in NETWORK else None
    if known is None:
        return None
    refusal, match = known
    meaning = match.expand(refusal.meaning).replace("TIMEOUT", timeout())
    remedy = match.expand(refusal.remedy).replace("NAME", name)
    wants_more = re.search(WANTS_MORE, stderr, re.MULTILINE) is not None
    own_words = last_line(match[0] if refusal.login else stderr)  # not a later "closed"
    return Refused(f"{name}: {meaning} ({own_words})", remedy, refusal, wants_more)


def last_line(text: str, count: int = 1) -> str:
    """The last line that says something, or the last `count` of them in one."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" @\t")]
    return " / ".join(lines[-count:]) or "it said nothing"
