"""The demo model, its prompts, and what transformers answers to them in fp32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from models.generation import ChatMessage
from tests.documents import ROOT
from tests.ipex.generating import Answers, answers_of
from worker.llm.artifact import Artifact, Source
from worker.llm.ipex.artifact import write_ipex_artifact
from worker.llm.ipex.recipe import IpexRecipe
from worker.llm.tokenizer import Tokenizer

DEMO = ROOT / "examples" / "demo-model"
SOURCE = Source(repository="demo-model", digest="0")
Store = Callable[[IpexRecipe], Artifact]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are small and the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO)


@pytest.fixture(scope="session")
def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """Eight of the example's requests, one of each kind."""
    lines = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[::25]
    return [tokenizer.encode_chat(_messages(json.loads(line))) for line in lines]


@pytest.fixture(scope="session")
def exact(prompts: list[list[int]], tokenizer: Tokenizer) -> Answers:
    """What transformers answers in fp32, from the checkpoint itself."""
    model = LlamaForCausalLM.from_pretrained(DEMO, torch_dtype=torch.float32).eval()
    return answers_of(model, prompts, sorted(tokenizer.eos_ids))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Makes an artifact of the demo model."""

    def make(recipe: IpexRecipe) -> Artifact:
        return write_ipex_artifact(DEMO, tmp_path / "artifact", recipe, source=SOURCE)

    return make


def _messages(line: dict[str, dict[str, list[dict[str, str]]]]) -> list[ChatMessage]:
    return [ChatMessage.model_validate(message) for message in line["body"]["messages"]]
