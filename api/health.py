"""`python -m api.health [URL]`: exit 0 when the API of this host and its database answer."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 5


def main() -> int:
    """The exit code."""
    url = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except urllib.error.URLError as exc:
        sys.stderr.write(f"{url} is not ready: {exc.reason}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
