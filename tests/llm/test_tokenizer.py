"""Tokenizer, chat template and detokenizer, against transformers' own on small vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from models.errors import RequestRefused, UnsafeModel, UnsupportedModel
from models.generation import ChatMessage
from models.text.chat_template import MAX_RENDERED_CHARACTERS
from tests.llm.tiny_tokenizers import (
    LLAMA3_TEMPLATE,
    TEXTS,
    make_byte_fallback,
    make_byte_level,
)
from worker.llm.detokenizer import Detokenizer
from worker.llm.tokenizer import Tokenizer

CHAT = (
    ChatMessage(role="system", content="Answer briefly."),
    ChatMessage(role="user", content="  Wie heißt die Hauptstadt von Japan (日本)? 🙂 "),
)


@pytest.fixture(scope="module")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_byte_level(tmp_path_factory.mktemp("byte-level"))


@pytest.fixture(scope="module")
def byte_level(byte_level_folder: Path) -> Tokenizer:
    return Tokenizer.load(byte_level_folder)


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(make_byte_fallback(tmp_path_factory.mktemp("byte-fallback")))


def test_chats_are_encoded_as_transformers_does(
    byte_level: Tokenizer, byte_level_folder: Path
) -> None:
    reference = AutoTokenizer.from_pretrained(byte_level_folder)
    messages = [message.model_dump() for message in CHAT]
    expected = reference.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    found = byte_level.encode_chat(CHAT)
    assert found == list(expected)
    bos = reference.bos_token_id
    assert found[0] == bos
    assert found.count(bos) == 1


def test_texts_are_encoded_as_transformers_does(
    byte_level: Tokenizer, byte_level_folder: Path
) -> None:
    reference = AutoTokenizer.from_pretrained(byte_level_folder)
    for text in (*TEXTS, "", "a"):
        assert byte_level.encode_text(text) == reference.encode(text, truncation=False)
    assert len(byte_level.encode_text(TEXTS[0])) > 5


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_texts_come_back(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    for text in ("the lazy dog, the fox.", "日本 🙂 ü", "x" * 300):
        assert tokenizer.decode(tokenizer.encode_text(text)) == text


@given(st.lists(st.integers(0, 399), max_size=60))
@settings(max_examples=300, deadline=None)
def test_pieces_of_any_tokens_make_the_whole_text(byte_level: Tokenizer, ids: list[int]) -> None:
    detokenizer = byte_level.detokenizer()
    pieces = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(pieces) + detokenizer.flush() == byte_level.decode(ids)


@given(st.lists(st.integers(4, 259), min_size=1, max_size=80))
@settings(max_examples=300, deadline=None)
def test_pieces_of_single_bytes_make_the_whole_text(byte_level: Tokenizer, ids: list[int]) -> None:
    detokenizer = byte_level.detokenizer()
    pieces = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(pieces) + detokenizer.flush() == byte_level.decode(ids)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
def test_no_piece_of_valid_text_holds_half_a_character(
    name: str, request: pytest.FixtureRequest, text: str
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    text = text.replace("\N{REPLACEMENT CHARACTER}", "?")
    ids = tokenizer.encode_text("the " + text)
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push([token_id]) for token_id in ids]
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert detokenizer.flush() == ""


def test_a_cut_character_is_only_told_at_the_end(byte_fallback: Tokenizer) -> None:
    ids = byte_fallback.encode_text("the \N{ROCKET}")  # four byte tokens
    detokenizer = byte_fallback.detokenizer()
    assert detokenizer.push(ids[:-4]) == "the "
    assert detokenizer.push(ids[-4:-1]) == ""
    assert set(detokenizer.flush()) == {"\N{REPLACEMENT CHARACTER}"}


def test_special_tokens_read_as_nothing_and_keep_the_spaces(byte_fallback: Tokenizer) -> None:
    the, eos = byte_fallback.encode_text("the")[-1], 2
    ids = [the, eos, the, eos, eos, the]
    detokenizer = byte_fallback.detokenizer()
    assert [detokenizer.push([i]) for i in ids] == ["the", "", " the", "", "", " the"]
    assert byte_fallback.decode(ids) == "the the the"


def test_detokenizing_looks_at_a_few_tokens_at_a_time(byte_level: Tokenizer) -> None:
    seen: list[int] = []

    def decode(ids: Any) -> str:
        seen.append(len(ids))
        return byte_level.decode(ids)

    detokenizer = Detokenizer(decode)
    broken = byte_level.encode_text("\N{ROCKET}")[-1]  # a byte that never starts a character
    for token_id in [broken] * 400 + [0, 1] * 200 + byte_level.encode_text(TEXTS[1]) * 5:
        detokenizer.push([token_id])
    assert max(seen) <= 20


def test_bytes_of_tokens_make_the_text(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    for tokenizer in (byte_level, byte_fallback):
        ids = tokenizer.encode_text("the 日本 🙂")
        content = bytes(byte for id_ in ids for byte in tokenizer.token_bytes(id_))
        text = content.decode().removeprefix("<|bos|>").removeprefix(" ")
        assert text == "the 日本 🙂"
    assert byte_level.token_text(0) == "<|bos|>"
    assert byte_level.token_text(99_999) == ""
    assert (
        byte_fallback.token_text(byte_fallback.encode_text("é")[-1]) == "\N{REPLACEMENT CHARACTER}"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}"
         "{% endfor %}", f"more than {MAX_RENDERED_CHARACTERS} characters"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)  # fmt: skip
def test_a_template_that_fails_refuses_the_request(
    template: str, reason: str, byte_level_folder: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(with_template(byte_level_folder, tmp_path, template))
    with pytest.raises(RequestRefused, match=reason) as caught:
        tokenizer.encode_chat(CHAT)
    assert (caught.value.code, caught.value.param) == ("invalid_messages", "messages")


def test_templates_know_what_transformers_gives_them(
    byte_level_folder: Path, tmp_path: Path
) -> None:
    template = (
        "{{ bos_token }}{{ strftime_now('%Y')[:2] }} {{ messages | length | tojson }}"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}"
        "{% endfor %}{{ {'ä': tools} | tojson }}"
    )
    folder = with_template(byte_level_folder, tmp_path, template)
    reference = AutoTokenizer.from_pretrained(folder)
    messages = [message.model_dump() for message in CHAT]
    expected = reference.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert Tokenizer.load(folder).encode_chat(CHAT) == list(expected)


def with_template(source: Path, folder: Path, template: str) -> Path:
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_template_that_does_not_parse_is_a_model_error(
    byte_level_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match="chat template"):
        Tokenizer.load(with_template(byte_level_folder, tmp_path, "{% if %}"))


def test_without_a_template_chats_are_refused(byte_fallback: Tokenizer) -> None:
    assert not byte_fallback.has_chat_template
    with pytest.raises(RequestRefused, match="text prompt"):
        byte_fallback.encode_chat(CHAT)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="cannot be loaded"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_with_its_own_code_is_refused(byte_level_folder: Path, tmp_path: Path) -> None:
    folder = with_template(byte_level_folder, tmp_path, LLAMA3_TEMPLATE)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["x.Evil", None]}}
    path.write_text(json.dumps(config))
    with pytest.raises(UnsafeModel, match="auto_map"):
        Tokenizer.load(folder)


def test_end_of_text_comes_from_the_generation_config_first(
    byte_level_folder: Path, tmp_path: Path
) -> None:
    folder = with_template(byte_level_folder, tmp_path, LLAMA3_TEMPLATE)
    assert Tokenizer.load(folder).eos_ids == {1}  # the tokenizer's
    config = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "vocab_size": 8,
              "num_hidden_layers": 1, "num_attention_heads": 1, "eos_token_id": 2}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    assert Tokenizer.load(folder).eos_ids == {2}
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 3]}')
    assert Tokenizer.load(folder).eos_ids == {1, 3}
