"""A plain tokenizer is the same whether transformers reads it or its two files are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.documents import ROOT
from worker.llm.plain_tokenizer import is_plain, read_plain
from worker.llm.resolved_tokenizer import load_tokenizer

DEMO = ROOT / "examples" / "demo-model"


def test_what_transformers_reads_is_what_is_in_the_files() -> None:
    assert is_plain(DEMO)
    ours, theirs = read_plain(DEMO), load_tokenizer(DEMO)
    assert ours.backend.to_str() == theirs.backend.to_str()
    assert ours.special_tokens == theirs.special_tokens
    assert ours.eos_id == theirs.eos_id
    assert ours.chat_template == theirs.chat_template


def test_special_tokens_and_template_may_stand_in_the_configuration(tmp_path: Path) -> None:
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    config = {
        "tokenizer_class": "TokenizersBackend",
        "eos_token": {"content": "<|eot_id|>", "special": True},
        "bos_token": None,
        "chat_template": "{{ messages }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    read = read_plain(tmp_path)
    assert (read.special_tokens, read.eos_id) == ({"eos_token": "<|eot_id|>"}, 4)
    assert read.chat_template == "{{ messages }}"


def test_a_tokenizer_of_a_class_of_its_own_is_not_plain(tmp_path: Path) -> None:
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    assert not is_plain(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizerFast"}')
    assert not is_plain(tmp_path)
