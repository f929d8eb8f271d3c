"""Engines and workers that die, hang, are paused or are told to stop."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
import pytest
from sqlalchemy import text

from models.states import ChunkState
from models.store.batches import get_batch, list_chunks
from tests.celery.cluster import wait_for, wait_for_end
from tests.faults.batches import plain, submit
from tests.faults.checker import redone
from tests.faults.fake_engine import FAKE_MODEL, Script
from tests.faults.rig import Rig
from tests.faults.watching import charged, check, crashes, failed_prompts, held_by, wait_share
from worker.watchdog import EXIT_DEAF

MICRO_BATCH_REQUESTS = 32
MOST_CRASHES = 4
STALL_TIMEOUT_S = 3
SLOW = Script(step_s=0.01)
UNHURRIED = Script(step_s=0.1)
VERY_SLOW = Script(step_s=0.5)
POINTS = (
    "after_receive:kill",
    "before_claim:kill:2",
    "after_claim:kill",
    "after_read:kill",
    "before_commit:kill",
    "after_fence:kill",
    "in_commit:kill",
    "after_commit:kill:3",
    "after_renew:kill",
    "before_finalize:kill",
    "after_finalize:kill",
    "after_dispatch:kill",
    "after_ring:kill",
    "after_sweep:kill:2",
)
QUICK_POINTS = {"after_receive:kill", "in_commit:kill", "after_commit:kill:3"}


def test_a_killed_engine_is_replaced(faults: Rig) -> None:
    node = faults.start_worker(script=SLOW)
    batch_id = submit(faults.database, plain(400), max_tokens=16)
    wait_share(faults, batch_id, 0.25)
    node.engine.kill()
    check(faults, batch_id)
    assert len(node.worker.said("the engine failed")) == 1


@pytest.mark.matrix
def test_a_killed_worker_takes_its_engine_along_and_another_takes_over(faults: Rig) -> None:
    victim, survivor = faults.start_worker(script=SLOW), faults.start_worker(script=SLOW)
    victim.worker.wait_ready()
    survivor.worker.wait_ready()
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    wait_share(faults, batch_id, 0.25)
    engine = victim.engine
    wait_for(lambda: bool(held_by(faults, victim)), "the victim holds a chunk")
    victim.kill()
    wait_for(lambda: not engine.is_running(), "the engine dies with its worker")
    check(faults, batch_id)
    assert redone([node.worker for node in faults.nodes], batch_id) <= MICRO_BATCH_REQUESTS


@pytest.mark.parametrize(
    "point",
    [
        point if point in QUICK_POINTS else pytest.param(point, marks=pytest.mark.matrix)
        for point in POINTS
    ],
)
def test_a_worker_may_die_at_every_step(faults: Rig, point: str) -> None:
    victim = faults.start_worker(failpoint=point, script=SLOW)
    batch_id = submit(faults.database, plain(200), max_tokens=16)
    wait_for(lambda: not victim.is_running, f"the worker dies {point}")
    faults.start_worker()
    check(faults, batch_id)
    assert redone([node.worker for node in faults.nodes], batch_id) <= MICRO_BATCH_REQUESTS


@pytest.mark.matrix
@pytest.mark.parametrize("point", ["before_release:kill", "after_release:kill"])
def test_a_worker_may_die_while_it_drains(faults: Rig, point: str) -> None:
    victim = faults.start_worker(failpoint=point, script=SLOW)
    batch_id = submit(faults.database, plain(400), max_tokens=16)
    wait_share(faults, batch_id, 0.25)
    assert victim.worker.stop(signal.SIGTERM) == -signal.SIGKILL
    faults.start_worker()
    check(faults, batch_id)


@pytest.mark.matrix
@pytest.mark.parametrize("with_engine", [False, True])
def test_a_worker_that_slept_past_its_lease_writes_nothing(faults: Rig, with_engine: bool) -> None:
    sleeper = faults.start_worker(script=SLOW)
    sleeper.worker.wait_ready()
    batch_id = submit(faults.database, plain(400), max_tokens=16)
    wait_share(faults, batch_id, 0.1)
    wait_for(lambda: bool(held_by(faults, sleeper)), "the sleeper holds a chunk")
    sleeper.pause(with_engine=with_engine)
    held = held_by(faults, sleeper)
    other = faults.start_worker(script=SLOW)
    wait_for(lambda: not held_by(faults, sleeper), "its chunks are taken over")
    sleeper.resume()
    # What the engine finished meanwhile is there to be written.
    wait_for(lambda: bool(sleeper.worker.said("chunk lost")), "the sleeper sees what it has lost")
    check(faults, batch_id)
    assert sleeper.is_running
    assert held
    assert other.worker.said("chunk done")


def test_a_node_that_sleeps_within_its_lease_blames_nobody(faults: Rig) -> None:
    batch_id = submit(faults.database, ["!slow but alive"], max_tokens=20)
    with faults.database.begin() as connection:
        connection.execute(text("UPDATE chunks SET attempts = 2, crashes = 2"))  # its last chance
    sleeper = faults.start_worker(script=SLOW, LEASE_TTL_S="30", RENEW_PERIOD_S="3")

    def runs_alone() -> bool:
        return list_chunks(faults.database, batch_id)[0].running_idx is not None

    wait_for(runs_alone, "the request runs")
    sleeper.pause(with_engine=True)
    faults.wait(STALL_TIMEOUT_S + 2)
    sleeper.process.resume()
    faults.wait(0.5)  # its engine wakes a little later
    sleeper.resume()
    check(faults, batch_id)
    assert crashes(faults, batch_id) == 0
    assert not sleeper.worker.said("the engine failed")


@pytest.mark.matrix
@pytest.mark.parametrize("point", ["before_commit", "after_fence", "in_commit"])
def test_a_worker_that_freezes_writes_nothing_late(faults: Rig, point: str) -> None:
    frozen = faults.start_worker(failpoint=f"{point}:pause", script=SLOW)
    batch_id = submit(faults.database, plain(8), max_tokens=16)  # one chunk
    wait_for(frozen.is_frozen, f"the worker freezes {point}")
    held = held_by(faults, frozen)
    other = faults.start_worker(script=VERY_SLOW)
    other.worker.wait_ready()
    wait_for(lambda: held_by(faults, other) == held, "another has what it held")
    frozen.resume()
    check(faults, batch_id)


@pytest.mark.matrix
@pytest.mark.parametrize("magic", ["!crash", "!hang", "!oom"])
def test_a_poisoned_request_fails_alone(faults: Rig, magic: str) -> None:
    faults.start_worker()
    prompts = [*plain(30), f"{magic} this engine", *plain(30)]
    batch_id = submit(faults.database, prompts, chunk_requests=20)
    check(faults, batch_id, may_fail={"worker_lost"})
    assert failed_prompts(faults, batch_id) == {f"{magic} this engine": "worker_lost"}
    assert crashes(faults, batch_id) <= MOST_CRASHES


@pytest.mark.matrix
def test_slow_requests_are_no_stall(faults: Rig) -> None:
    node = faults.start_worker(script=SLOW)
    batch_id = submit(faults.database, ["!slow but alive", *plain(10)], max_tokens=30)
    check(faults, batch_id)
    assert not node.worker.said("the engine failed")


def test_a_worker_told_to_stop_gives_its_chunks_back_at_once(faults: Rig) -> None:
    first = faults.start_worker(script=SLOW)
    batch_id = submit(faults.database, plain(400), max_tokens=16)
    wait_share(faults, batch_id, 0.25)
    assert first.worker.stop(signal.SIGTERM, timeout_s=30) == 0
    for chunk in list_chunks(faults.database, batch_id):
        assert chunk.state in {ChunkState.PENDING, ChunkState.DISPATCHED, ChunkState.DONE}
        assert chunk.attempts == (chunk.state is ChunkState.DONE)
    faults.start_worker()
    check(faults, batch_id)
    assert charged(faults, batch_id) == 0


@pytest.mark.matrix
def test_a_second_signal_ends_a_worker_at_once(faults: Rig) -> None:
    node = faults.start_worker(script=SLOW)
    batch_id = submit(faults.database, plain(400), max_tokens=16)
    wait_share(faults, batch_id, 0.25)
    node.worker.process.send_signal(signal.SIGSTOP)  # so that both signals are there at once
    node.worker.process.send_signal(signal.SIGTERM)
    node.worker.process.send_signal(signal.SIGINT)
    assert node.worker.stop(signal.SIGCONT) == 1
    faults.start_worker()
    check(faults, batch_id)


@pytest.mark.matrix
def test_rolling_restarts_use_up_no_attempts(faults: Rig) -> None:
    # So slow that the batch cannot end while workers start, however long that takes.
    nodes = faults.start_workers(2, script=UNHURRIED)
    batch_id = submit(faults.database, plain(3000), max_tokens=16, chunk_requests=40)
    for round_number in range(6):
        wait_share(faults, batch_id, 0.005 * round_number)
        assert nodes[0].worker.stop(signal.SIGTERM, timeout_s=30) == 0
        nodes = [nodes[1], *faults.start_workers(1, script=UNHURRIED)]
    faults.start_workers(1)
    check(faults, batch_id)
    assert charged(faults, batch_id) == 0
    assert all(chunk.attempts == 1 for chunk in list_chunks(faults.database, batch_id))


@pytest.mark.matrix
@pytest.mark.parametrize("offset_s", [3600, -3600])
def test_a_node_s_clock_may_be_an_hour_off(faults: Rig, offset_s: int) -> None:
    strange = faults.start_worker(script=SLOW, clock_offset_s=offset_s)
    usual = faults.start_worker(script=SLOW)
    strange.worker.wait_ready()
    usual.worker.wait_ready()
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    check(faults, batch_id)
    for node in (strange, usual):
        assert node.worker.said("chunk done")
    assert charged(faults, batch_id) == 0
    assert all(chunk.epoch == 1 for chunk in list_chunks(faults.database, batch_id))


@pytest.mark.matrix
def test_an_engine_that_dies_again_and_again_ends_the_worker_not_the_batch(faults: Rig) -> None:
    node = faults.start_worker(script=SLOW)
    batch_id = submit(faults.database, plain(600), max_tokens=16, chunk_requests=20)
    node.worker.wait_ready()

    def has_left() -> bool:
        if node.is_running:
            for engine in psutil.Process(node.worker.process.pid).children():
                with suppress(psutil.NoSuchProcess):  # buried since it was killed the last time
                    engine.kill()
        return not node.is_running

    wait_for(has_left, "the worker leaves service")
    assert node.worker.process.returncode not in (0, -signal.SIGKILL)
    assert node.worker.said("the worker leaves service")
    faults.start_workers(1)
    wait_for_end(faults.database, batch_id)
    check(faults, batch_id, may_fail={"worker_lost"})
    assert get_batch(faults.database, batch_id).failed <= 1


@pytest.mark.matrix
def test_a_request_that_kills_whole_workers_fails_alone(faults: Rig) -> None:
    prompts = [*plain(12), "!worker dies of this", *plain(11)]
    batch_id = submit(faults.database, prompts, chunk_requests=24)

    def is_over() -> bool:
        """Like a service manager: start the worker again when it has died."""
        if not any(node.is_running for node in faults.nodes):
            faults.start_worker()
        return get_batch(faults.database, batch_id).is_terminal

    wait_for(is_over, "the batch has ended", timeout_s=120)
    check(faults, batch_id, may_fail={"worker_lost"})
    assert failed_prompts(faults, batch_id) == {"!worker dies of this": "worker_lost"}
    assert sum(not node.is_running for node in faults.nodes) <= MOST_CRASHES


@pytest.mark.matrix
def test_an_engine_that_holds_too_much_is_replaced_between_chunks(faults: Rig) -> None:
    node = faults.start_worker(max_engine_rss_bytes=str(160 * 1024**2))
    node.worker.wait_ready()
    first = node.engine.pid
    growing = submit(faults.database, [f"!grow {prompt}" for prompt in plain(16)])
    check(faults, growing)
    faults.wait(1.5)  # memory is looked at once a second, while there is work
    following = submit(faults.database, plain(200))
    check(faults, following)
    assert node.engine.pid != first
    for batch_id in (growing, following):
        assert crashes(faults, batch_id) == 0
        assert redone([node.worker], batch_id) == 0


@pytest.mark.matrix
def test_a_worker_that_hears_nothing_ends_to_be_started_again(faults: Rig) -> None:
    node = faults.start_worker(is_deaf=True)
    node.worker.wait_ready()
    with faults.redis.client() as client:
        client.lpush(FAKE_MODEL.queue, "{}")
    wait_for(lambda: not node.is_running, "the deaf worker ends")
    assert node.worker.process.returncode == EXIT_DEAF
