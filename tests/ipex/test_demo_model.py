"""The demo model quantized by IPEX: loading it quantizes nothing and changes no answer."""

from __future__ import annotations

from itertools import product

import intel_extension_for_pytorch as ipex
import pytest
import torch
from transformers import LlamaForCausalLM

from models.lowp import Lowp
from models.model_key import Weights
from tests.ipex.conftest import DEMO, Store
from tests.ipex.generating import Answers, answers_of
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import read_model_config
from worker.llm.ipex.artifact import load_ipex_model
from worker.llm.ipex.model import build_model, optimized
from worker.llm.ipex.quantize import quantized_tensors
from worker.llm.ipex.recipe import Activations, IpexRecipe
from worker.llm.tokenizer import Tokenizer

RECIPES = [
    IpexRecipe(weights=weights, lowp=lowp, group_size=group, activations=activations)
    for (weights, group), lowp, activations in product(
        ((Weights.INT8, -1), (Weights.INT8, 64), (Weights.INT4, 64)), Lowp, Activations
    )
]
ONE_PER_WEIGHTS = [recipe for recipe in RECIPES if recipe.activations is Activations.BF16]
every_recipe = pytest.mark.parametrize(
    "recipe", RECIPES, ids=lambda r: f"{r.weights}-{r.group_size}-{r.lowp}-{r.activations}"
)


@every_recipe
def test_a_stored_model_answers_as_the_one_that_was_quantized(
    recipe: IpexRecipe, store: Store, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_model_config(DEMO)
    fresh = build_model(config, recipe, dict(quantized_tensors(config, recipe, Checkpoint(DEMO))))
    artifact = store(recipe)
    for name in ("quantize_per_channel", "quantize_per_block"):
        monkeypatch.delattr(f"worker.llm.ipex.quantize.{name}")
    loaded = load_ipex_model(artifact)
    assert answers_of(loaded.model, prompts) == answers_of(fresh.model, prompts)


@every_recipe
def test_it_is_what_ipex_makes_of_the_whole_model(
    recipe: IpexRecipe, store: Store, prompts: list[list[int]]
) -> None:
    whole = LlamaForCausalLM.from_pretrained(DEMO, torch_dtype=torch.float32).eval()
    whole.generation_config.eos_token_id = None
    expected = answers_of(optimized(whole, recipe), prompts)
    assert answers_of(load_ipex_model(store(recipe)).model, prompts) == expected


@every_recipe
def test_its_answers_are_those_of_the_exact_model(
    recipe: IpexRecipe,
    store: Store,
    prompts: list[list[int]],
    exact: Answers,
    tokenizer: Tokenizer,
) -> None:
    loaded = load_ipex_model(store(recipe))
    answers = answers_of(loaded.model, prompts, sorted(tokenizer.eos_ids))
    wrong = (answers.first_logits - exact.first_logits).abs().max()
    if recipe.weights is Weights.INT8:
        assert answers.tokens == exact.tokens
        assert wrong < 0.25
    else:  # the model is small, so 4 bits hurt it more than they would a real one
        same = sum(a == b for a, b in zip(answers.tokens, exact.tokens, strict=True))
        assert same >= len(prompts) // 2
        assert wrong < 3


@pytest.mark.parametrize("weights", [Weights.INT8, Weights.INT4])
def test_a_prompt_alone_is_answered_as_beside_others(
    weights: Weights, store: Store, prompts: list[list[int]], tokenizer: Tokenizer
) -> None:
    model = load_ipex_model(store(IpexRecipe(weights=weights, activations=Activations.FP32))).model
    ends = sorted(tokenizer.eos_ids)
    together = answers_of(model, prompts, ends).tokens
    assert [answers_of(model, [prompt], ends).tokens[0] for prompt in prompts] == together


def test_the_context_can_be_bounded(store: Store, prompts: list[list[int]]) -> None:
    artifact = store(IpexRecipe())
    whole, bounded = load_ipex_model(artifact), load_ipex_model(artifact, context_tokens=256)
    assert (whole.context_tokens, bounded.context_tokens) == (1024, 256)
    assert answers_of(bounded.model, prompts) == answers_of(whole.model, prompts)


def test_ipex_is_the_pinned_release() -> None:
    assert ipex.__version__.startswith("2.8.0")
