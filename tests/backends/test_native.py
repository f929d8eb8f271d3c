"""The native backend: defaults, stop strings, streaming, choices, log probabilities, timings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import RequestRefused, SettingsError
from models.generation import ChatMessage, ChatPrompt, Generation, Prompt, TextPrompt, TokenPrompt
from models.params import DecodingParams
from tests.backends.tiny_artifact import CONTEXT_TOKENS, write_tiny_artifact
from worker.backends.base import Backend
from worker.backends.engine_backend import EngineBackend, build_backend
from worker.backends.messages import Add, Delta, Finished
from worker.backends.paged_models import LoadedModel, load_paged_model
from worker.backends.process_config import EngineProcessConfig
from worker.backends.server import load_backend
from worker.llm.artifact import Artifact, open_artifact

TEXT = TextPrompt(text="the night shift works")
CHAT = ChatPrompt(messages=(ChatMessage(role="user", content="the day"),))


def load(config: EngineProcessConfig) -> EngineBackend:
    artifact = open_artifact(config.artifact, verify=True)
    return build_backend(config, artifact, load_paged_model(config, artifact))


@pytest.fixture(scope="module")
def backend(tiny_artifact: Path) -> EngineBackend:
    return load(EngineProcessConfig(artifact=tiny_artifact, threads=1))


def test_an_artifact_that_is_replaced_while_it_is_loaded_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_tiny_artifact(tmp_path)
    loaded: list[str] = []

    def load_while_replaced(config: EngineProcessConfig, artifact: Artifact) -> LoadedModel:
        model = load_paged_model(config, artifact)
        if not loaded:
            write_tiny_artifact(tmp_path, {"temperature": 0.5})
        loaded.append(artifact.digest)
        return model

    monkeypatch.setattr("worker.backends.server.load_paged_model", load_while_replaced)
    before = open_artifact(place, verify=False).digest
    load_backend(EngineProcessConfig(artifact=place, threads=1))
    assert loaded == [before, open_artifact(place, verify=False).digest]
    assert loaded[0] != loaded[1]


def add(
    backend: Backend, key: str = "r", prompt: Prompt = TEXT, *, stream: bool = False, **params: Any
) -> None:
    command = Add(key=key, prompt=prompt, params=DecodingParams(**params), stream=stream)
    backend.add(backend.prepare(command, 0.0))


def finish(backend: Backend) -> tuple[dict[str, Generation], dict[tuple[str, int], str]]:
    """Run to the end: answers by key, streamed text by key and choice."""
    answers: dict[str, Generation] = {}
    streamed: dict[tuple[str, int], str] = {}
    while backend.has_work:
        for event in backend.step():
            if isinstance(event, Delta):
                place = event.key, event.index
                streamed[place] = streamed.get(place, "") + event.text
            elif isinstance(event, Finished):
                assert event.generation is not None
                answers[event.key] = event.generation
    return answers, streamed


def answer(backend: Backend, prompt: Prompt = TEXT, **params: Any) -> Generation:
    add(backend, prompt=prompt, **params)
    return finish(backend)[0]["r"]


def test_an_answer_has_its_text_counts_and_reason(backend: EngineBackend) -> None:
    result = answer(backend, prompt=CHAT, max_tokens=7, temperature=0, ignore_eos=True)
    (choice,) = result.choices
    assert choice.text
    assert (choice.index, choice.finish_reason) == (0, "length")
    assert result.output_tokens == 7
    assert result.prompt_tokens == len(backend.prepare(Add(key="x", prompt=CHAT), 0.0).prompt_ids)
    assert (choice.token_ids, choice.logprobs, result.prompt_token_ids) == (None, None, None)


def test_token_ids_are_returned_on_request_and_can_be_sent_as_a_prompt(
    backend: EngineBackend,
) -> None:
    wish: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "return_token_ids": True}
    first = answer(backend, **wish)
    assert first.prompt_token_ids is not None
    ids = first.choices[0].token_ids
    assert ids is not None and len(ids) == first.output_tokens
    again = answer(backend, prompt=TokenPrompt(token_ids=first.prompt_token_ids), **wish)
    assert again.choices == first.choices


@pytest.mark.parametrize("seed", range(6))
def test_streamed_text_is_the_text_with_and_without_stops(
    backend: EngineBackend, seed: int
) -> None:
    wish: dict[str, Any] = {"max_tokens": 60, "seed": seed, "n": 2, "ignore_eos": True}
    for stop in ((), ("e", "ft n"), ("\ufffd\ufffd", "the day sleeps")):
        add(backend, "quiet", **wish, stop=stop)
        add(backend, "streamed", **wish, stop=stop, stream=True)
        answers, streamed = finish(backend)
        assert answers["quiet"].choices == answers["streamed"].choices
        for choice in answers["streamed"].choices:
            assert streamed.get(("streamed", choice.index), "") == choice.text
            assert not any(text in choice.text for text in stop)


def test_an_end_that_the_model_has_no_logit_for_is_ignored(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path, {"eos_token_id": [5, 10**6]})
    result = answer(load(EngineProcessConfig(artifact=artifact)), max_tokens=8, min_tokens=8)
    assert result.output_tokens == 8


def test_a_stop_string_inside_or_across_tokens_ends_the_text_before_it(
    backend: EngineBackend,
) -> None:
    wish: dict[str, Any] = {"max_tokens": 40, "seed": 5, "ignore_eos": True}
    whole = answer(backend, **wish).choices[0].text
    for begin, end in ((3, 5), (7, 15), (11, 12)):
        stop = whole[begin:end]
        result = answer(backend, **wish, stop=(stop, "never written"))
        assert result.choices[0].text == whole[: whole.find(stop)]
        assert result.choices[0].finish_reason == "stop"
        assert result.output_tokens < 40
    assert not backend.has_work


def test_stop_strings_wait_for_min_tokens(backend: EngineBackend) -> None:
    wish: dict[str, Any] = {"max_tokens": 40, "seed": 5, "ignore_eos": True, "min_tokens": 12}
    whole = answer(backend, **wish).choices[0].text
    result = answer(backend, **wish, stop=(whole[0], whole[1]))
    assert result.output_tokens > 12
    assert whole.startswith(result.choices[0].text)
    assert len(result.choices[0].text) > 1


def test_the_end_token_ends_the_answer_without_text_unless_it_is_ignored(
    backend: EngineBackend,
) -> None:
    (end,) = backend._tokenizer.eos_ids
    forced: dict[str, Any] = {"max_tokens": 5, "temperature": 0, "logit_bias": {end: 100.0}}
    result = answer(backend, **forced, return_token_ids=True)
    assert (result.choices[0].finish_reason, result.choices[0].text) == ("stop", "")
    assert result.choices[0].token_ids == (end,)
    assert answer(backend, **forced, ignore_eos=True).output_tokens == 5
    assert answer(backend, **forced, min_tokens=3).output_tokens == 4


def test_a_stop_token_is_counted_but_not_written(backend: EngineBackend) -> None:
    wish: dict[str, Any] = {
        "max_tokens": 20,
        "temperature": 0,
        "return_token_ids": True,
        "ignore_eos": True,
    }
    free = answer(backend, **wish)
    ids = free.choices[0].token_ids
    assert ids is not None
    stopped = answer(backend, **wish, stop_token_ids=(ids[8],))
    length = ids.index(ids[8]) + 1
    assert stopped.choices[0].token_ids == ids[:length]
    assert stopped.choices[0].text == backend._tokenizer.decode(ids[: length - 1])
    assert stopped.choices[0].finish_reason == "stop"


def test_log_probabilities_come_with_text_bytes_and_alternatives(backend: EngineBackend) -> None:
    result = answer(backend, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3)
    logprobs = result.choices[0].logprobs
    assert logprobs is not None and len(logprobs) == result.output_tokens
    for entry in logprobs:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0  # greedy took the likeliest
        assert entry.top_logprobs[0].token == entry.token
        assert bytes(entry.bytes or ()).decode(errors="replace") == entry.token
    alone = answer(backend, max_tokens=1, temperature=0, logprobs=True).choices[0].logprobs
    assert alone is not None and alone[0].top_logprobs == ()


def test_a_seed_gives_the_same_answer_alone_and_in_company(backend: EngineBackend) -> None:
    alone = answer(backend, max_tokens=30, seed=42, n=2)
    for number in range(9):
        add(backend, f"other {number}", max_tokens=25, seed=number, top_p=0.9, top_k=50)
    add(backend, max_tokens=30, seed=42, n=2)
    assert finish(backend)[0]["r"].choices == alone.choices
    assert alone.choices[0].text != alone.choices[1].text


def test_the_sender_s_seed_counts_where_the_request_has_none(backend: EngineBackend) -> None:
    texts = []
    for own, given in ((None, 3), (3, 9), (None, 9)):
        command = Add(
            key="r", prompt=TEXT, params=DecodingParams(max_tokens=30, seed=own), seed=given
        )
        backend.add(backend.prepare(command, 0.0))
        texts.append(finish(backend)[0]["r"].choices[0].text)
    assert texts[0] == texts[1] != texts[2]


def test_a_known_prompt_is_found_in_the_cache_and_answered_the_same(
    backend: EngineBackend,
) -> None:
    prompt = TextPrompt(text="while the day sleeps the night shift works " * 4)
    first = answer(backend, prompt, max_tokens=12, temperature=0)
    second = answer(backend, prompt, max_tokens=12, temperature=0, logprobs=True)
    assert first.cached_prompt_tokens == 0
    assert 16 <= second.cached_prompt_tokens < second.prompt_tokens
    assert first.choices[0].text == second.choices[0].text


def test_duplicates_are_computed_once_and_each_stops_at_its_own_strings(
    backend: EngineBackend,
) -> None:
    prompt = TextPrompt(text="the same prompt for all of them")
    wish: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
    whole = answer(backend, prompt, **wish, logprobs=True).choices[0].text  # computed apart
    early, late = (whole[3:6],), (whole[20:24],)
    before = backend.counters.output_tokens
    add(backend, "stops early", prompt, **wish, n=2, stop=early)
    add(backend, "goes on", prompt, **wish)
    events = [event for _ in range(30) for event in backend.step()]
    answers = {e.key: e.generation for e in events if isinstance(e, Finished) and e.generation}
    add(backend, "comes late", prompt, **wish, n=2, stop=late, stream=True)
    more, streamed = finish(backend)
    add(backend, "is remembered", prompt, **wish, n=2, stop=early)
    answers |= more | finish(backend)[0]
    assert backend.counters.output_tokens == before + 40
    assert answers["goes on"].choices[0].text == whole
    expected = {"stops early": early, "comes late": late, "is remembered": early}
    for key, stop in expected.items():
        texts = [choice.text for choice in answers[key].choices]
        assert texts == [whole[: whole.index(stop[0])]] * 2
        assert answers[key].output_tokens < 2 * 40
        timings = answers[key].timings
        assert min(timings.queue_s, timings.prefill_s, timings.decode_s) >= 0
    assert set(streamed.values()) == {whole[: whole.index(late[0])]}
    assert answers["stops early"].output_tokens == answers["is remembered"].output_tokens
    assert answers["is remembered"].cached_prompt_tokens == answers["goes on"].prompt_tokens


def test_timings_add_up_to_the_total(backend: EngineBackend) -> None:
    timings = answer(backend, max_tokens=6, temperature=0).timings
    parts = timings.tokenize_s + timings.queue_s + timings.prefill_s + timings.decode_s
    assert parts == pytest.approx(timings.total_s)
    first = timings.tokenize_s + timings.queue_s + timings.prefill_s
    assert first == pytest.approx(timings.time_to_first_token_s)
    assert min(timings.queue_s, timings.prefill_s, timings.decode_s, timings.tokenize_s) >= 0


def test_what_cannot_run_is_refused_and_leaves_nothing_behind(backend: EngineBackend) -> None:
    long = TokenPrompt(token_ids=(5,) * CONTEXT_TOKENS)
    with pytest.raises(RequestRefused, match=f"{CONTEXT_TOKENS}") as refusal:
        add(backend, prompt=long)
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(RequestRefused, match="ids end at"):
        add(backend, prompt=TokenPrompt(token_ids=(10_000,)))
    assert not backend.has_work
    add(backend, "twice", max_tokens=1)
    with pytest.raises(RequestRefused, match="another key"):
        add(backend, "twice", max_tokens=1)
    finish(backend)


def test_an_answer_may_fill_the_context_to_its_last_token(backend: EngineBackend) -> None:
    prompt = TokenPrompt(token_ids=(5,) * (CONTEXT_TOKENS - 3))
    result = answer(backend, prompt, temperature=0, ignore_eos=True)
    assert (result.output_tokens, result.choices[0].finish_reason) == (3, "length")


def test_a_setting_bounds_prompt_and_answer_and_the_model_does_too(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path)
    short = load(EngineProcessConfig(artifact=artifact, threads=1, context_tokens=10))
    assert short.describe().context_tokens == 10
    result = answer(short, TokenPrompt(token_ids=(5,) * 6), temperature=0, ignore_eos=True)
    assert (result.output_tokens, result.choices[0].finish_reason) == (4, "length")
    with pytest.raises(RequestRefused, match="10"):
        add(short, prompt=TokenPrompt(token_ids=(5,) * 10))
    own = load(EngineProcessConfig(artifact=artifact, threads=1, context_tokens=10**6))
    assert own.describe().context_tokens == CONTEXT_TOKENS


def test_a_cancelled_request_gets_no_answer(backend: EngineBackend) -> None:
    add(backend, "gone", max_tokens=50)
    add(backend, "stays", max_tokens=3)
    backend.step()
    backend.cancel(["gone", "unknown"])
    assert set(finish(backend)[0]) == {"stays"}


def test_the_model_s_own_defaults_apply(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path, {"do_sample": False, "max_new_tokens": 9})
    greedy = load(EngineProcessConfig(artifact=artifact, threads=1))
    first, second = (answer(greedy, ignore_eos=True) for _ in range(2))
    assert first.choices == second.choices
    assert first.output_tokens == 9


def test_a_small_cache_is_used_as_far_as_it_goes(tiny_artifact: Path) -> None:
    block_bytes = 2 * 2 * 16 * 2 * 16 * 4  # keys and values, layers, tokens, heads, size, fp32
    config = EngineProcessConfig(artifact=tiny_artifact, threads=1, kv_cache_bytes=4 * block_bytes)
    small = load(config)
    assert small.describe().kv_cache_tokens == 64
    for number in range(6):
        prompt = TextPrompt(text=f"the night shift works {'day ' * number}")
        add(small, str(number), prompt, max_tokens=30, temperature=0, ignore_eos=True)
    answers, _ = finish(small)
    assert small.counters.preemptions > 0
    assert {a.output_tokens for a in answers.values()} == {30}
    with pytest.raises(RequestRefused, match="NIGHTSHIFT_KV_CACHE_BYTES"):
        add(small, max_tokens=100)
    with pytest.raises(SettingsError, match="less than one block"):
        load(config.model_copy(update={"kv_cache_bytes": block_bytes - 1}))


def test_a_request_that_breaks_the_arithmetic_is_refused_alone(tiny_artifact: Path) -> None:
    config = EngineProcessConfig(artifact=tiny_artifact, threads=1, prefix_cache=False)
    damaged = load(config)
    token = 200
    model: Any = damaged._engine._model
    model._weights.embedding.weight[token] = torch.nan
    add(damaged, "bad", TokenPrompt(token_ids=(5, token)), n=2, max_tokens=4)
    add(damaged, "good", TokenPrompt(token_ids=(5, 6)), max_tokens=4, ignore_eos=True)
    ends = {}
    while damaged.has_work:
        ends.update({e.key: e for e in damaged.step() if isinstance(e, Finished)})
    refusal = ends["bad"].refusal
    assert refusal is not None
    assert (refusal.code, refusal.http_status) == ("server_error", 500)
    assert ends["good"].generation is not None
