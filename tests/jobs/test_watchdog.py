"""A worker is deaf when messages wait although it has nothing in hand, and only then."""

from __future__ import annotations

from models.errors import BrokerUnavailable
from worker.watchdog import DeafnessWatch


class World:
    """A clock and a queue that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.messages = 0
        self.is_away = False

    def waiting(self) -> int:
        if self.is_away:
            raise BrokerUnavailable("away")
        return self.messages

    def watch(self) -> DeafnessWatch:
        return DeafnessWatch(self.waiting, limit_s=60, clock=lambda: self.now)


def test_messages_that_lie_for_the_limit_prove_deafness() -> None:
    world = World()
    watch = world.watch()
    world.messages = 1
    assert not watch.is_deaf()
    world.now = 60.0
    assert not watch.is_deaf()
    world.now = 60.1
    assert watch.is_deaf()


def test_an_empty_queue_and_an_absent_broker_prove_nothing() -> None:
    world = World()
    watch = world.watch()
    world.messages = 1
    watch.is_deaf()
    world.now, world.messages = 100.0, 0
    assert not watch.is_deaf()
    world.messages = 1
    watch.is_deaf()
    world.now, world.is_away = 200.0, True
    assert not watch.is_deaf()
    world.is_away = False
    assert not watch.is_deaf()


def test_a_worker_with_a_message_in_hand_is_busy_and_not_deaf() -> None:
    world = World()
    watch = world.watch()
    world.messages = 5
    with watch.hearing():
        watch.is_deaf()
        world.now = 1000.0
        assert not watch.is_deaf()
    assert not watch.is_deaf()
    world.now = 1061.0
    assert watch.is_deaf()


def test_hearing_one_message_starts_the_wait_anew() -> None:
    world = World()
    watch = world.watch()
    world.messages = 2
    watch.is_deaf()
    world.now = 50.0
    with watch.hearing():
        pass
    world.now = 70.0
    assert not watch.is_deaf()
