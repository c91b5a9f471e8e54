"""Which names hold secrets: the one list that git, the leak check and every transfer use.

A name counts wherever it stands in a path, in any case: `configs/secrets.yaml`, `.aws/config`.
.gitignore repeats the list; a test holds the two together.
"""

from __future__ import annotations

import re
from fnmatch import translate

# Shell patterns of file and folder names.
PATTERNS = (
    ".credentials", "*.credentials", "credentials.json", "service-account*.json",
    ".env", ".env.*", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".htpasswd",
    ".npmrc", ".pypirc", ".git-credentials", "rclone.conf", "kubeconfig",
    ".aws", ".ssh", ".kube", ".gnupg",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.kdbx", "*.token",
    "token", "token.txt", "*_token", "*_token.txt",
    "secret.json", "secret.txt", "secret.yaml", "secret.yml", "secret.toml",
    "secrets.json", "secrets.txt", "secrets.yaml", "secrets.yml", "secrets.toml",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
)  # fmt: skip
# Endings that make any of these names harmless: examples and public keys.
HARMLESS = (".example", ".sample", ".template", ".dist", ".pub")

_NAME = re.compile("|".join(translate(pattern) for pattern in PATTERNS), re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a file or folder of this name holds secrets: 'token.txt', '.aws', 'id_rsa'."""
    return _NAME.match(name) is not None and not name.lower().endswith(HARMLESS)


def is_secret(path: str) -> bool:
    """Whether any part of `path` (parts joined by '/') is the name of a secret."""
    return any(map(is_secret_name, path.split("/")))
