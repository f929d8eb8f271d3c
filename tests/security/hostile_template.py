"""A program that renders one template under a limit of memory, and prints the refusal.

`python -m tests.security.hostile_template`: the template comes in by standard input.
"""

from __future__ import annotations

import resource
import sys

import jinja2

from models.errors import RequestRefused
from models.generation import ChatMessage
from models.text.chat_template import ChatTemplate

MEMORY_BYTES = 1024**3


def main() -> None:
    """Print what became of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    messages = [ChatMessage(role="user", content="Hello " * 1000)]
    try:
        rendered = ChatTemplate(sys.stdin.read(), {"bos_token": "<s>"}).render(messages)
    except (RequestRefused, jinja2.TemplateError) as exc:
        sys.stdout.write(f"{exc}\n")
    else:
        sys.stdout.write(f"rendered {len(rendered)} characters\n")


if __name__ == "__main__":
    main()
