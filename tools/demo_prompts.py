"""The demo model's prompt file and the answers expected to it.

Must not know of models or tokenizers: the prompts are the same whatever was trained.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.demo_tasks import Chat, held_out_chats

MODEL_NAME = "demo-model"
ANSWER_TOKENS = 48
PROMPT_COUNT = 200
PROMPT_SEED = 2024


def prompt_chats() -> list[Chat]:
    """Return the held-out chats of prompts.jsonl, in its order."""
    return held_out_chats(PROMPT_COUNT, seed=PROMPT_SEED)


def batch_line(custom_id: str, chat: Chat) -> dict[str, object]:
    """Return a chat as a line of an OpenAI batch input file."""
    body = {
        "model": MODEL_NAME,
        "messages": chat.messages,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
    }
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def write_prompts(folder: Path) -> None:
    """Write prompts.jsonl and expected.jsonl: the same bytes at every call."""
    chats = prompt_chats()
    names = [f"{chat.task}-{number:03}" for number, chat in enumerate(chats)]
    prompts = [batch_line(name, chat) for name, chat in zip(names, chats, strict=True)]
    expected = [
        {"custom_id": name, "answer": chat.answer} for name, chat in zip(names, chats, strict=True)
    ]
    for file_name, lines in (("prompts.jsonl", prompts), ("expected.jsonl", expected)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / file_name).write_text(text, encoding="utf-8")
