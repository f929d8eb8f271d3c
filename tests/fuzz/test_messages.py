"""Anything as a message of the queue or of the engine's socket: understood, or dropped whole."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.model_key import ModelKey, Weights
from models.store.views import Ring
from tests.fuzz import shapes
from tests.fuzz.budget import examples
from tests.fuzz.reading import check_params
from worker.backends.messages import COMMANDS, EVENTS, Add, to_line
from worker.tasks import ChunkListener

MODEL = ModelKey("demo", Weights.INT8)
KINDS = ["add", "cancel", "ready", "failed", "finished", "delta", "progress", "other"]
FIELDS = [
    *("kind", "key", "keys", "prompt", "params", "seed", "stream", "generation", "refusal"),
    *("index", "text", "error", "message", "steps", "choices", "timings", "token_ids"),
]
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "v": st.sampled_from([1, 2, "1", True, 1.0, None]),
        "chunk": st.integers(-1, 2**64) | shapes.WILD_VALUES,
        "batch": st.text(max_size=70) | shapes.WILD_VALUES,
        "n": st.integers(-1, 2**70) | shapes.WILD_VALUES,
        "more": shapes.WILD_VALUES,
    },
)
PROMPTS = st.one_of(
    st.builds(lambda text: {"kind": "text", "text": text}, shapes.WILD_TEXT),
    st.builds(lambda ids: {"kind": "tokens", "token_ids": ids}, st.lists(shapes.NUMBERS)),
    st.builds(lambda turns: {"kind": "chat", "messages": turns}, shapes.MESSAGES),
    shapes.WILD_VALUES,
)
ADDS = st.fixed_dictionaries(
    {"kind": st.just("add"), "key": shapes.WILD_TEXT, "prompt": PROMPTS},
    optional={"params": shapes.PARAMETERS | shapes.WILD_VALUES, "seed": shapes.NUMBERS},
)
BODIES = ADDS | st.dictionaries(
    st.sampled_from(FIELDS), st.sampled_from(KINDS) | shapes.WILD_VALUES, max_size=6
)


@examples(150)
@given(
    args=st.lists(CHUNKS | shapes.WILD_VALUES | st.binary(max_size=4), min_size=0, max_size=2),
    kwargs=st.dictionaries(
        shapes.WILD_TEXT.filter(lambda name: name != "self"), CHUNKS, max_size=1
    ),
)
def test_any_message_of_the_queue(args: list[object], kwargs: dict[str, object]) -> None:
    rings: list[Ring] = []
    listener = ChunkListener(MODEL, rings.append)
    listener.hear(*args, **kwargs)
    assert len(rings) + listener.malformed == 1
    for ring in rings:
        assert 1 <= ring.chunk_id < 2**63
        assert len(ring.batch_id) <= 64
        assert args == [{"v": 1, "chunk": ring.chunk_id, "batch": ring.batch_id, "n": ring.n}]


def test_a_message_as_the_dispatcher_sends_it_is_heard() -> None:
    rings: list[Ring] = []
    ChunkListener(MODEL, rings.append).hear({"v": 1, "chunk": 7, "batch": "batch_1", "n": 2})
    assert rings == [Ring(chunk_id=7, batch_id="batch_1", model=MODEL, n=2)]


@examples(150)
@given(line=BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=60))
def test_any_line_of_the_engines_socket(line: bytes) -> None:
    for messages in (COMMANDS, EVENTS):
        try:
            message = messages.validate_json(line)
        except ValidationError:  # a ValueError, which ends the engine or the connection to it
            continue
        written = to_line(message)
        assert written.count(b"\n") == 1
        assert messages.validate_json(written) == message
        if isinstance(message, Add):
            check_params(message.params)
