"""Turns the demo model's exercises into token tensors to learn from.

Chats are laid end to end in rows of one width, so that no step computes padding and all have
one shape. Must not know of the model or the optimizer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tools.demo_tasks import TASKS, Chat, Split, draw_chat
from tools.demo_tokenizer import END_OF_TURN

IGNORED = -100  # label that cross_entropy leaves out

# The harder tasks are seen more often.
TASK_WEIGHTS = {"add": 4.0, "subtract": 4.0, "larger": 2.0, "fact": 2.0, "date": 1.5}


def render(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> str:
    """Return the prompt text of a chat, up to where the answer begins."""
    text = tokenizer.apply_chat_template(chat.messages, tokenize=False, add_generation_prompt=True)
    return str(text)


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> tuple[list[int], list[int]]:
    """Return the token ids of a chat with all answers, and the labels: its answers' tokens."""
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ids: list[int] = []
    labels: list[int] = []
    whole = render(tokenizer, chat) + chat.answer + END_OF_TURN
    for number, part in enumerate(whole.split(header)):
        # Each part but the first begins with an answer, which ends with the first end of turn.
        answer, end, rest = part.partition(END_OF_TURN) if number else ("", "", part)
        learnt = tokenizer.encode(answer + end, add_special_tokens=False)
        is_last = number == len(chat.turns)
        given = tokenizer.encode(rest + ("" if is_last else header), add_special_tokens=False)
        ids += learnt + given
        labels += learnt + [IGNORED] * len(given)
    return ids, labels


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Chats laid end to end in rows of equal length, without padding between them."""

    ids: Tensor  # (rows, tokens)
    labels: Tensor  # (rows, tokens)
    positions: Tensor  # (rows, tokens), from 0 in every chat
    chats: Tensor  # (rows, tokens), the number of the chat that a token belongs to
    tasks: Tensor  # (rows, tokens), the index in TASKS of the chat's last question

    def attention_mask(self) -> Tensor:
        """Return (rows, 1, tokens, tokens): true where a token may look, back in its own chat."""
        own = self.chats[:, :, None] == self.chats[:, None, :]
        return own.tril()[:, None]


def training_batches(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, rows: int, row_tokens: int
) -> Iterator[PackedBatch]:
    """Yield packed batches for ever; a chat that would cross the end of a row is left out."""
    rng = random.Random(seed)
    while True:
        packed = [packed_row(tokenizer, rng, width=row_tokens) for _ in range(rows)]
        ids, labels, positions, chats, tasks = torch.tensor(packed).unbind(1)
        yield PackedBatch(ids=ids, labels=labels, positions=positions, chats=chats, tasks=tasks)


def packed_row(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, *, width: int
) -> list[list[int]]:
    """Return one row's ids, labels, positions, chat numbers and tasks, filled up at the end."""
    task_numbers = {name: number for number, name in enumerate(TASKS)}
    columns: list[list[int]] = [[], [], [], [], []]
    for number in count():
        chat = draw_chat(rng, split=Split.TRAINING, weights=TASK_WEIGHTS)
        ids, labels = encode(tokenizer, chat)
        free = width - len(columns[0])
        if len(ids) > free:
            ids, labels = [tokenizer.pad_token_id] * free, [IGNORED] * free
        size = len(ids)
        task = task_numbers[chat.task]
        added = (ids, labels, list(range(size)), [number] * size, [task] * size)
        for column, values in zip(columns, added, strict=True):
            column.extend(values)
        if size == free:
            break
    return columns
