"""The tokenizer that an artifact keeps, against transformers' own of the model it was made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from models.errors import UnsupportedModel
from models.generation import ChatMessage
from tests.llm.tiny_tokenizers import TEXTS, make_byte_fallback, make_byte_level
from tools.demo_tokenizer import train_tokenizer
from worker.llm.resolved_tokenizer import BACKEND_NAME, write_resolved
from worker.llm.tokenizer import Tokenizer

CHAT = (
    ChatMessage(role="system", content="Answer briefly."),
    ChatMessage(role="user", content=" the 日本 🙂 "),
)


def make_demo(folder: Path) -> Path:
    train_tokenizer(TEXTS).save_pretrained(folder)
    return folder


def make_code_llama(folder: Path) -> Path:
    """Its class puts a BOS before texts, whatever tokenizer.json says."""
    make_byte_fallback(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "CodeLlamaTokenizer"}
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture(params=[make_byte_level, make_byte_fallback, make_demo, make_code_llama])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path / "source")
    return made


@pytest.fixture
def kept(folder: Path, tmp_path: Path) -> Path:
    """An artifact's folder with nothing of the model but what was kept."""
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    write_resolved(folder, artifact)
    return artifact


def test_what_is_kept_encodes_and_decodes_as_transformers_does(folder: Path, kept: Path) -> None:
    reference, tokenizer = AutoTokenizer.from_pretrained(folder), Tokenizer.load(kept)
    for text in (*TEXTS, "", "a", "the <s>the</s> <|eot|> \x00\n  x"):
        ids = tokenizer.encode_text(text)
        assert ids == reference.encode(text, truncation=False)
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.eos_ids == {reference.eos_token_id}


def test_what_is_kept_is_what_the_model_folder_gives(folder: Path, kept: Path) -> None:
    ours, expected = Tokenizer.load(kept), Tokenizer.load(folder)
    assert ours.has_chat_template == expected.has_chat_template
    if expected.has_chat_template:
        assert ours.encode_chat(CHAT) == expected.encode_chat(CHAT)
    size = len(AutoTokenizer.from_pretrained(folder))
    assert [ours.token_bytes(i) for i in range(size)] == [
        expected.token_bytes(i) for i in range(size)
    ]


def test_what_the_class_of_the_model_adds_is_kept(tmp_path: Path) -> None:
    source = make_code_llama(tmp_path / "source")
    write_resolved(source, tmp_path)
    ids = Tokenizer.load(tmp_path).encode_text("the")
    assert ids == [1, *Backend.from_file(str(source / "tokenizer.json")).encode("the").ids]


def test_what_is_kept_is_read_without_transformers(kept: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from worker.llm.tokenizer import Tokenizer; "
        "Tokenizer.load(Path(sys.argv[1])).encode_text('the'); print('transformers' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(kept)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "False"


def test_a_kept_tokenizer_that_is_damaged_is_refused(kept: Path) -> None:
    (kept / BACKEND_NAME).write_text("{}")
    with pytest.raises(UnsupportedModel, match="remove the artifact"):
        Tokenizer.load(kept)
