"""What ssh runs (SSH_ASKPASS) when it wants a password: prints it from the credentials file.

    python askpass.py FILE PROMPT

Only ssh sees this output. The process list shows only the name of that file. A question that
is not about a password (a host key, a key's passphrase) is not answered.
"""

import json
import sys


def main() -> int:
    path, prompt = sys.argv[1:3]
    if "password" not in prompt.lower():
        return 1
    with open(path, encoding="utf-8") as f:
        print(json.load(f)["password"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
