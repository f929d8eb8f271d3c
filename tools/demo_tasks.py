"""Draws the demo model's exercises: short chats whose right answer is known.

Every exercise has an instance key that says what is asked, however it is worded. The hash of
the key puts it on one side of the split for ever: training never meets a held-out instance,
in no template, no turn and with no seed. Must not know of models, tokenizers or files.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from tools import demo_lexicon as lexicon

HELD_OUT_SHARE = 10  # one instance in ten


class Split(StrEnum):
    """The two sides of the data; which one an instance is on follows from its key alone."""

    TRAINING = "training"
    HELD_OUT = "held_out"


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What is asked (key), the template fields that ask it, and the one right answer."""

    key: str
    fields: Mapping[str, str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One worded question of a task with its answer."""

    task: str
    key: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Turns that end in a question; earlier turns are shown with their right answers."""

    system: str | None
    turns: tuple[Exercise, ...]

    @property
    def task(self) -> str:
        """The task of the last question."""
        return self.turns[-1].task

    @property
    def answer(self) -> str:
        """The right answer to the last question."""
        return self.turns[-1].answer

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat up to and without the last answer, in OpenAI's shape."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages[:-1]


def split_of(key: str) -> Split:
    """Return the side that an instance key belongs to."""
    digest = hashlib.sha256(key.encode()).digest()
    is_held_out = int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0
    return Split.HELD_OUT if is_held_out else Split.TRAINING


def _add(rng: random.Random) -> Instance:
    large, small = rng.randrange(10, 100), rng.randrange(1, 10)
    fields = {"a": str(large), "b": str(small)}
    return Instance(key=f"{large}+{small}", fields=fields, answer=str(large + small))


def _subtract(rng: random.Random) -> Instance:
    a, b = rng.randrange(10, 100), rng.randrange(1, 10)
    return Instance(key=f"{a}-{b}", fields={"a": str(a), "b": str(b)}, answer=str(a - b))


def _larger(rng: random.Random) -> Instance:
    a, b = rng.sample(range(10, 100), 2)
    return Instance(
        key=f"{min(a, b)},{max(a, b)}", fields={"a": str(a), "b": str(b)}, answer=str(max(a, b))
    )


def _parity(rng: random.Random) -> Instance:
    a = rng.randrange(10_000)
    return Instance(key=str(a), fields={"a": str(a)}, answer="odd" if a % 2 else "even")


def _listing(rng: random.Random, *, fewest: int, most: int) -> list[str]:
    return rng.sample(lexicon.WORDS, rng.randint(fewest, most))


def _on_list(words: list[str], answer: str) -> Instance:
    listing = " ".join(words)
    return Instance(key=listing, fields={"words": listing}, answer=answer)


def _sort(rng: random.Random) -> Instance:
    words = rng.sample(lexicon.WORDS, 3)
    in_order = " ".join(sorted(words))
    return Instance(key=in_order, fields={"words": " ".join(words)}, answer=in_order)


def _reverse(rng: random.Random) -> Instance:
    words = _listing(rng, fewest=3, most=5)
    return _on_list(words, " ".join(reversed(words)))


def _upper(rng: random.Random) -> Instance:
    words = _listing(rng, fewest=2, most=4)
    return _on_list(words, " ".join(words).upper())


def _repeat(rng: random.Random) -> Instance:
    words = _listing(rng, fewest=4, most=8)
    return _on_list(words, " ".join(words))


def _count(rng: random.Random) -> Instance:
    words = _listing(rng, fewest=2, most=8)
    return _on_list(words, str(len(words)))


def _nth(rng: random.Random) -> Instance:
    words = _listing(rng, fewest=3, most=5)
    index = rng.randrange(len(words))
    listing, ordinal = " ".join(words), lexicon.ORDINALS[index]
    return Instance(
        key=f"{ordinal}:{listing}",
        fields={"words": listing, "ordinal": ordinal},
        answer=words[index],
    )


def _extract(rng: random.Random) -> Instance:
    record = {
        "name": rng.choice(lexicon.NAMES),
        "city": rng.choice(lexicon.CITIES),
        "number": str(rng.randrange(2, 1000)),
        "thing": rng.choice(lexicon.WORDS),
    }
    wanted = rng.choice(tuple(lexicon.ORDER_QUESTIONS))
    fields = {
        "text": rng.choice(lexicon.ORDER_FORMS).format(**record),
        "question": rng.choice(lexicon.ORDER_QUESTIONS[wanted]),
    }
    return Instance(key=f"{wanted}:{sorted(record.items())}", fields=fields, answer=record[wanted])


def _json(rng: random.Random) -> Instance:
    record = {
        "name": rng.choice(lexicon.NAMES),
        "job": rng.choice(lexicon.JOBS),
        "city": rng.choice(lexicon.CITIES),
    }
    answer = json.dumps(record)
    text = rng.choice(lexicon.PERSON_FORMS).format(**record)
    return Instance(key=answer, fields={"text": text}, answer=answer)


def _fact(rng: random.Random) -> Instance:
    things = _listing(rng, fewest=2, most=3)
    colours = rng.sample(lexicon.COLOURS, len(things))
    text = " ".join(f"The {t} is {c}." for t, c in zip(things, colours, strict=True))
    index = rng.randrange(len(things))
    is_true = rng.random() < 0.5
    # A false question names a colour that stands elsewhere in the text, or nowhere in it.
    others = [c for c in lexicon.COLOURS if c != colours[index]]
    asked = colours[index] if is_true else rng.choice(others)
    fields = {"text": text, "thing": things[index], "colour": asked}
    return Instance(
        key=f"{text}|{things[index]}|{asked}", fields=fields, answer="Yes" if is_true else "No"
    )


def _date(rng: random.Random) -> Instance:
    day = date(1990, 1, 1) + timedelta(days=rng.randrange(365 * 60))
    month = lexicon.MONTHS[day.month - 1]
    forms = {
        "YYYY-MM-DD": day.isoformat(),
        "DD/MM/YYYY": f"{day.day:02}/{day.month:02}/{day.year}",
        "day month year": f"{day.day} {month} {day.year}",
    }
    source, target = rng.sample(tuple(forms), 2)
    # Keyed by the day alone: the other forms of a held-out day are not trained on either.
    return Instance(
        key=day.isoformat(), fields={"date": forms[source], "form": target}, answer=forms[target]
    )


TASKS: Mapping[str, Callable[[random.Random], Instance]] = {
    "add": _add,
    "subtract": _subtract,
    "larger": _larger,
    "parity": _parity,
    "sort": _sort,
    "reverse": _reverse,
    "upper": _upper,
    "repeat": _repeat,
    "count": _count,
    "nth": _nth,
    "extract": _extract,
    "json": _json,
    "fact": _fact,
    "date": _date,
}


def draw_exercise(rng: random.Random, *, task: str, split: Split) -> Exercise:
    """Draw an exercise of the task whose instance is on the given side of the split."""
    while True:
        instance = TASKS[task](rng)
        key = f"{task}:{instance.key}"
        if split_of(key) is split:
            question = rng.choice(lexicon.TEMPLATES[task]).format(**instance.fields)
            return Exercise(task=task, key=key, question=question, answer=instance.answer)


def draw_chat(
    rng: random.Random, *, split: Split, weights: Mapping[str, float] | None = None
) -> Chat:
    """Draw a chat: one turn in most cases, now and then two, or a system message.

    `weights` says how often each task is drawn (1 for one not named).
    """
    names = tuple(TASKS)
    turns = rng.choices((1, 2), weights=(88, 12))[0]
    drawn = rng.choices(names, weights=[(weights or {}).get(n, 1.0) for n in names], k=turns)
    system = rng.choice(lexicon.SYSTEM_MESSAGES) if rng.random() < 0.25 else None
    return Chat(
        system=system,
        turns=tuple(draw_exercise(rng, task=name, split=split) for name in drawn),
    )


def held_out_chats(count: int, *, seed: int) -> list[Chat]:
    """Draw `count` held-out chats in which no instance occurs twice and all tasks take turns.

    The last questions go round the tasks, so every task is asked equally often.
    """
    rng = random.Random(seed)
    chats: list[Chat] = []
    seen: set[str] = set()
    names = tuple(TASKS)
    while len(chats) < count:
        chat = draw_chat(rng, split=Split.HELD_OUT)
        keys = {turn.key for turn in chat.turns}
        if chat.task == names[len(chats) % len(names)] and not keys & seen:
            chats.append(chat)
            seen |= keys
    return chats
