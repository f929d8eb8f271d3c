"""The demo model's exercises, prompt files and tokenizer; needs no training and no torch."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tools import demo_lexicon
from tools.demo_prompts import MODEL_NAME, PROMPT_COUNT, write_prompts
from tools.demo_tasks import (
    TASKS,
    Chat,
    Exercise,
    Split,
    draw_chat,
    draw_exercise,
    held_out_chats,
    split_of,
)
from tools.write_calibration import write_calibration

EXAMPLES = Path(__file__).parent.parent / "examples"
MODEL_FOLDER = EXAMPLES / MODEL_NAME


def read_lines(name: str) -> list[dict[str, Any]]:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    return loaded


def rendered(messages: list[dict[str, str]]) -> str:
    text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def chats(count: int, *, seed: int, split: Split = Split.TRAINING) -> list[Chat]:
    rng = random.Random(seed)
    return [draw_chat(rng, split=split) for _ in range(count)]


def test_one_seed_gives_the_same_chats_and_another_seed_others() -> None:
    assert chats(50, seed=3) == chats(50, seed=3)
    assert chats(50, seed=3) != chats(50, seed=4)


@pytest.mark.parametrize("task", TASKS)
def test_no_instance_is_on_both_sides_of_the_split(task: str) -> None:
    rng = random.Random(5)
    drawn = {
        split: {draw_exercise(rng, task=task, split=split).key for _ in range(300)}
        for split in Split
    }
    assert not drawn[Split.TRAINING] & drawn[Split.HELD_OUT]
    assert all(split_of(key) is split for split, keys in drawn.items() for key in keys)


def test_every_turn_of_every_prompt_is_held_out_and_asked_once() -> None:
    keys = [turn.key for chat in held_out_chats(PROMPT_COUNT, seed=9) for turn in chat.turns]
    assert len(keys) == len(set(keys))
    assert all(split_of(key) is Split.HELD_OUT for key in keys)


def test_swapped_summands_are_one_instance() -> None:
    rng = random.Random(1)
    keys: dict[frozenset[str], set[str]] = {}
    for _ in range(3000):
        exercise = draw_exercise(rng, task="add", split=Split.TRAINING)
        summands = frozenset(exercise.key.removeprefix("add:").split("+"))
        keys.setdefault(summands, set()).add(exercise.key)
    assert all(len(same) == 1 for same in keys.values())


@pytest.mark.parametrize("task", TASKS)
def test_every_template_of_a_task_is_used(task: str) -> None:
    rng = random.Random(2)
    openings = {template.partition("{")[0] for template in demo_lexicon.TEMPLATES[task]}
    questions = [draw_exercise(rng, task=task, split=Split.TRAINING).question for _ in range(200)]
    assert all(any(q.startswith(opening) for q in questions) for opening in openings)


@pytest.mark.parametrize(
    ("task", "solve"),
    [
        ("add", lambda key: str(sum(map(int, key.split("+"))))),
        ("subtract", lambda key: str(int(key.split("-")[0]) - int(key.split("-")[1]))),
        ("larger", lambda key: key.split(",")[1]),
        ("sort", lambda key: " ".join(sorted(key.split()))),
        ("reverse", lambda key: " ".join(key.split()[::-1])),
        ("upper", lambda key: key.upper()),
        ("count", lambda key: str(len(key.split()))),
    ],
)
def test_answers_are_right(task: str, solve: Any) -> None:
    rng = random.Random(6)
    for _ in range(100):
        exercise: Exercise = draw_exercise(rng, task=task, split=Split.TRAINING)
        assert exercise.answer == solve(exercise.key.removeprefix(f"{task}:"))


def test_messages_alternate_and_end_with_the_question() -> None:
    for chat in chats(200, seed=8):
        roles = [message["role"] for message in chat.messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(chat.turns) - 1) + ["user"]
        assert chat.messages[-1]["content"] == chat.turns[-1].question


def test_the_committed_prompts_are_what_the_generator_produces(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    for name in ("prompts.jsonl", "expected.jsonl"):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_the_texts_of_the_calibration_are_none_of_the_prompts(tmp_path: Path) -> None:
    write_calibration(tmp_path)
    lines = (tmp_path / "calibration.jsonl").read_text().splitlines()
    asked = {str(json.loads(line)["body"]["messages"]) for line in lines}
    assert len(lines) == len((tmp_path / "calibration-answers.jsonl").read_text().splitlines())
    assert asked.isdisjoint(str(line["body"]["messages"]) for line in read_lines("prompts.jsonl"))


def test_every_prompt_has_one_expected_answer() -> None:
    prompts = [line["custom_id"] for line in read_lines("prompts.jsonl")]
    assert prompts == [line["custom_id"] for line in read_lines("expected.jsonl")]
    assert len(set(prompts)) == PROMPT_COUNT


def test_prompts_are_openai_batch_lines() -> None:
    for line in read_lines("prompts.jsonl"):
        assert set(line) == {"custom_id", "method", "url", "body"}
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert line["body"].keys() == {"model", "messages", "max_tokens", "temperature"}
        assert line["body"]["model"] == MODEL_NAME


def test_answers_fit_the_token_limit_of_their_request() -> None:
    limits = {line["custom_id"]: line["body"]["max_tokens"] for line in read_lines("prompts.jsonl")}
    for line in read_lines("expected.jsonl"):
        ids = tokenizer().encode(line["answer"], add_special_tokens=False)
        assert len(ids) < limits[line["custom_id"]]  # room for the end-of-turn token


def test_the_model_folder_is_at_most_8_mb() -> None:
    assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) <= 8_000_000


def test_the_tokenizer_restores_every_prompt() -> None:
    for line in read_lines("prompts.jsonl"):
        text = rendered(line["body"]["messages"])
        assert tokenizer().decode(tokenizer().encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    "text", ["naïve café", "日本語 🙂", "tabs\tand\n\n\nlines  ", "x = 3.1415"]
)
def test_the_tokenizer_restores_any_text(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text, add_special_tokens=False)) == text


def test_each_digit_is_a_token() -> None:
    assert tokenizer().tokenize("2048") == ["2", "0", "4", "8"]


def test_the_chat_template_renders_as_llama_3() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert rendered(messages) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_special_tokens_of_the_template_are_single_ids() -> None:
    ids = tokenizer().encode(rendered([{"role": "user", "content": ""}]), add_special_tokens=False)
    specials = [
        tokenizer().convert_ids_to_tokens(i) for i in ids if i in tokenizer().all_special_ids
    ]
    assert specials == [
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ]
