"""A model calibrated on sample texts: what its matrices were multiplied with, and what for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.errors import InputError
from models.generation import ChatMessage, ChatPrompt, TextPrompt, TokenPrompt
from models.model_key import Weights
from tests.llm.quantized_folders import Scheme, gptq, gptq_config, save_quantized
from tests.llm.test_families import MODELS, make
from tests.llm.tiny_models import make_model, make_reference, save_reference
from tests.llm.tiny_tokenizers import make_byte_level
from tools.demo_prompts import prompt_chats
from worker.llm.add import add_model
from worker.llm.artifact import open_artifact
from worker.llm.calibration import Calibration
from worker.llm.calibration_texts import SAMPLE_TOKENS, CalibrationText, CalibrationTexts
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import read_model_config
from worker.llm.convert import convert
from worker.llm.decoder import Decoder
from worker.llm.embedding import Embedding
from worker.llm.kv_cache import KVCache
from worker.llm.layer_weights import EMBEDDING, LayerWeights
from worker.llm.loading import load_model
from worker.llm.packed import Segment, pack_step
from worker.llm.quantize import dequantized
from worker.llm.registry import Registry
from worker.llm.tokenizer import Tokenizer

DEMO = Path("examples/demo-model")
INPUTS = {"qkv": ("q_proj", "qkv_proj"), "output": ("o_proj",),
          "gate_up": ("gate_proj", "gate_up_proj"), "down": ("down_proj",)}  # fmt: skip
TEXTS = [[5, 9, 11, 40, 3, 3, 17], list(range(20, 60)), [8]]


class Seen:
    """The sums of x xᵀ over the inputs of transformers' own modules, by their names."""

    def __init__(self, model: nn.Module) -> None:
        self.moments: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(partial(self._add, name))

    def _add(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2)
        self.moments[name] = self.moments.get(name, 0) + rows.t() @ rows


class Unquantized(Calibration):
    """Keeps the moments, and passes layers as if nothing were lost in them."""

    kept: dict[str, Tensor]

    def moments(
        self, index: int, full: Mapping[str, Tensor], names: Collection[str]
    ) -> dict[str, Tensor]:
        found = super().moments(index, full, names)
        self.kept = getattr(self, "kept", {}) | found
        return found

    def pass_layer(
        self, index: int, full: Mapping[str, Tensor], stored: Mapping[str, Tensor]
    ) -> None:
        assert stored.keys() >= {name for name in full if name.endswith("norm.weight")}
        super().pass_layer(index, full, full)


@pytest.mark.parametrize("name", MODELS)
def test_the_inputs_seen_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reference = make(name)
    reference.save_pretrained(tmp_path)
    seen = Seen(reference)
    for ids in TEXTS:
        reference(torch.tensor([ids]))
    config = read_model_config(tmp_path)
    made: list[Unquantized] = []

    def calibrate(embed: Embedding) -> Unquantized:
        made.append(Unquantized(config, TEXTS, embed))
        return made[0]

    layers = LayerWeights(Weights.INT4, (), 32)
    for _ in convert(config, layers, Checkpoint(tmp_path), calibrate):
        pass
    for index in range(config.num_layers):
        for ours, theirs in INPUTS.items():
            expected = next(
                moment
                for module, moment in seen.moments.items()
                if f".{index}." in module and module.endswith(theirs)
            )
            found = made[0].kept[f"layers.{index}.{ours}"]
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def demo_texts(*, answered: bool = True) -> CalibrationTexts:
    return CalibrationTexts(
        tuple(
            CalibrationText(
                ChatPrompt(messages=tuple(ChatMessage.model_validate(m) for m in chat.messages)),
                chat.answer if answered else "",
            )
            for chat in prompt_chats()[::2]
        )
    )


def divergence(model: Decoder, reference: Decoder) -> float:
    """Mean KL divergence from the reference, in the answers that `demo_texts` leaves out."""
    tokenizer = Tokenizer.load(DEMO)
    sums, places = 0.0, 0
    for chat in prompt_chats()[1::2]:
        prompt = tokenizer.encode_chat([ChatMessage.model_validate(m) for m in chat.messages])
        ids = prompt + tokenizer.encode_continuation(chat.answer)
        wanted, found = (log_probabilities(each, ids) for each in (reference, model))
        answer = slice(len(prompt) - 1, len(ids) - 1)
        sums += (wanted.exp() * (wanted - found))[answer].sum().item()
        places += len(ids) - len(prompt)
    return sums / places


def log_probabilities(model: Decoder, ids: list[int]) -> Tensor:
    """Of the next token in every place, (T, vocabulary)."""
    blocks = range(-(-len(ids) // 16))
    cache = KVCache(model.config, len(blocks), 16, model.compute_dtype)
    packed = pack_step([Segment(ids, 0, blocks, sample=True)], 16)
    everywhere = replace(packed, sample_rows=torch.arange(len(ids)))
    return model.forward(everywhere, cache).log_softmax(-1)


def add(registry: Registry, name: str, weights: Weights, layers: LayerWeights | None) -> Decoder:
    entry = add_model(registry, str(DEMO), name=name, weights=weights, layers=layers)
    return load_model(open_artifact(entry.folder, verify=False))


def test_a_calibrated_model_is_nearer_to_the_full_one_on_texts_it_has_not_seen(
    tmp_path: Path,
) -> None:
    registry = Registry(tmp_path)
    full = add(registry, "demo", Weights.FP32, None)
    apart = add(registry, "demo", Weights.INT4, None)
    layers = LayerWeights(Weights.INT4, calibration=demo_texts())
    calibrated = add(registry, "demo", Weights.INT4, layers)
    assert divergence(calibrated, full) < 0.6 * divergence(apart, full)


@pytest.mark.parametrize("tied", [False, True])
def test_only_int4_layers_change_and_all_are_stored_as_ever(tied: bool, tmp_path: Path) -> None:
    reference = make_reference(vocab_size=400, tie_word_embeddings=tied).bfloat16()
    folder = save_reference(reference, tmp_path)
    config = read_model_config(folder)
    layers = LayerWeights(
        Weights.INT4, (("layers.0.*", Weights.INT8), ("layers.1.down", Weights.BF16)), 32
    )
    plain = dict(convert(config, layers, Checkpoint(folder)))
    calibrate = partial(Calibration, config, TEXTS)
    calibrated = dict(convert(config, layers, Checkpoint(folder), calibrate))
    assert {name: (each.shape, each.dtype) for name, each in calibrated.items()} == {
        name: (each.shape, each.dtype) for name, each in plain.items()
    }
    changed = {name for name in plain if not torch.equal(plain[name], calibrated[name])}
    assert changed == {
        "layers.1.qkv.weight", "layers.1.output.weight", "layers.1.gate_up.weight", "lm_head.weight"
    }  # fmt: skip


class Replaced(Checkpoint):
    """A checkpoint with other rows of the embedding."""

    rows: Tensor

    def tensor(self, name: str) -> Tensor:
        return self.rows if name == "model.embed_tokens.weight" else super().tensor(name)


@pytest.mark.parametrize("kind", [Weights.INT8, Weights.INT4])
def test_a_quantized_embedding_is_what_the_layers_are_calibrated_behind(
    kind: Weights, tmp_path: Path
) -> None:
    folder = save_reference(
        make_model("gemma2", hidden_size=72, query_pre_attn_scalar=16), tmp_path
    )
    config = read_model_config(folder)
    assert config.embedding_scale != 1
    calibrate = partial(Calibration, config, TEXTS)
    layers = LayerWeights(Weights.INT4, ((EMBEDDING, kind), ("lm_head", kind)), 32)
    ours = dict(convert(config, layers, Checkpoint(folder), calibrate))
    source = Replaced(folder)
    source.rows = dequantized(ours, f"{EMBEDDING}.")[:, : config.hidden_size].contiguous()
    expected = dict(convert(config, LayerWeights(Weights.INT4, (), 32), source, calibrate))
    of_layers = {name for name in ours if name.startswith("layers.")}
    assert of_layers
    assert all(torch.equal(ours[name], expected[name]) for name in of_layers)


def test_an_artifact_is_found_again_by_the_texts_it_was_calibrated_on(tmp_path: Path) -> None:
    folder = make_byte_level(save_reference(make_reference(vocab_size=400), tmp_path / "tiny"))
    registry = Registry(tmp_path / "registry")

    def digest(*texts: str) -> str:
        sample = CalibrationTexts(tuple(CalibrationText(TextPrompt(text=each)) for each in texts))
        layers = LayerWeights(Weights.INT4, (), 32, calibration=sample)
        asked = layers if texts else None
        return add_model(registry, str(folder), weights=Weights.INT4, layers=asked).digest

    first = digest("one text", "another")
    assert digest() == first  # nobody asked for other weights
    assert digest("one text", "another") == first
    assert digest("one text") != first


def test_the_sample_is_the_same_every_time_and_has_an_end(tmp_path: Path) -> None:
    folder = make_byte_level(save_reference(make_reference(vocab_size=400), tmp_path))
    tokenizer = Tokenizer.load(folder)
    long, short = TokenPrompt(token_ids=(7,) * 900), TextPrompt(text="short")
    texts = CalibrationTexts(
        tuple(CalibrationText(prompt, " answer") for prompt in (long, short) * 100)
    )
    sample = texts.sample(tokenizer)
    assert sample == texts.sample(tokenizer)
    assert SAMPLE_TOKENS <= sum(map(len, sample)) < SAMPLE_TOKENS + 512
    assert {len(ids) for ids in sample} == {512, len(tokenizer.encode_text("short answer"))}
    assert texts.digest != CalibrationTexts(texts.texts[1:]).digest


def test_texts_that_no_token_comes_of_are_refused(tmp_path: Path) -> None:
    model = save_reference(make_reference(vocab_size=400), tmp_path)
    folder = make_byte_level(model, template=None)
    chat = CalibrationText(ChatPrompt(messages=(ChatMessage(role="user", content="Hello"),)))
    with pytest.raises(InputError, match="no text for the calibration can be used"):
        CalibrationTexts((chat,)).sample(Tokenizer.load(folder))


def test_calibration_is_refused_where_nothing_would_be_rounded_by_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave out --calibrate"):
        LayerWeights(Weights.INT8, calibration=demo_texts())
    scheme = Scheme()
    (tmp_path / "source").mkdir()
    folder = make_byte_level(tmp_path / "source")
    reference = make_reference(vocab_size=400, intermediate_size=128)
    save_quantized(reference, folder, gptq_config(scheme), partial(gptq, scheme=scheme))
    layers = LayerWeights(Weights.INT4, calibration=demo_texts())
    with pytest.raises(InputError, match="quantized already: leave out --calibrate"):
        add_model(Registry(tmp_path), str(folder), weights=Weights.INT4, layers=layers)
