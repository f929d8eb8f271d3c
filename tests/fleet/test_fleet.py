"""When members are started again, and how the whole ends; the members are small real programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.fleet import Fleet, Member, RestartPauses
from worker.watchdog import EXIT_DEAF

LIMIT_S = 30.0
WAIT_FOR_EOF = "import sys; sys.stdin.read()"
QUICK = RestartPauses(first_s=0.01, most_s=0.02)


def fleet(*programs: str, cpus: tuple[int, ...] = (), kill_after_s: float = LIMIT_S) -> Fleet:
    own = cpus or tuple(os.sched_getaffinity(0))
    members = [
        Member(number, (sys.executable, "-c", program), os.environ, own)
        for number, program in enumerate(programs, start=1)
    ]
    return Fleet(members, kill_after_s=kill_after_s, pauses=QUICK)


def once(condition: Callable[[], bool]) -> Callable[[], bool]:
    """A wish to stop that comes with the condition; a test that waits too long fails."""
    deadline = time.monotonic() + LIMIT_S

    def should_stop() -> bool:
        assert time.monotonic() < deadline
        return condition()

    return should_stop


def noting(path: Path, then: str) -> str:
    """A program that leaves a line in a file, then does something."""
    return f"open({str(path)!r}, 'a').write('started\\n')\n{then}"


def starts(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_members_drain_at_the_end_of_their_input(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = noting(told, f"{WAIT_FOR_EOF}; print('drained', file=open({str(told)!r}, 'a'))")
    assert fleet(program, program).run(once(lambda: starts(told) == 2)) == 0
    assert told.read_text().splitlines()[2:] == ["drained", "drained"]


@pytest.mark.parametrize("code", [1, 4, EXIT_DEAF])
def test_who_fails_is_started_again(code: int, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = noting(told, f"import sys; sys.exit({code})")
    fleet(program, WAIT_FOR_EOF).run(once(lambda: starts(told) >= 3))
    assert starts(told) >= 3


def test_who_crashes_is_started_again(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = noting(told, "import os; os.kill(os.getpid(), 9)")
    assert fleet(program).run(once(lambda: starts(told) >= 3)) == 128 + 9


def test_a_program_that_cannot_be_started_now_is_tried_again(tmp_path: Path) -> None:
    program, told = tmp_path / "program", tmp_path / "told"
    member = Member(1, (str(program),), os.environ, tuple(os.sched_getaffinity(0)))
    asked = iter(range(1_000_000))

    def should_stop() -> bool:
        if next(asked) == 3:
            program.write_text(f"#!{sys.executable}\n{noting(told, WAIT_FOR_EOF)}\n")
            program.chmod(0o755)
        return starts(told) == 1

    assert Fleet([member], kill_after_s=LIMIT_S, pauses=QUICK).run(once(should_stop)) == 0


@pytest.mark.parametrize("code", [0, 2, 3, 5])
def test_who_would_end_in_the_same_way_again_is_not(code: int, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = noting(told, f"import sys; sys.exit({code})")
    assert fleet(program).run(once(lambda: False)) == code
    assert starts(told) == 1


def test_the_worst_exit_code_is_the_fleet_s() -> None:
    ends = [f"import sys; sys.exit({code})" for code in (0, 5, 2)]
    assert fleet(*ends).run(once(lambda: False)) == 5


def test_who_does_not_drain_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    stubborn = noting(told, "import time\nwhile True: time.sleep(1)")
    assert fleet(stubborn, kill_after_s=0.5).run(once(lambda: starts(told) == 1)) == 128 + 9


def test_nobody_is_started_after_the_wish_to_stop(tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert fleet(noting(told, "pass")).run(once(lambda: True)) == 0
    assert starts(told) == 0


def test_members_run_on_their_cpus_and_the_fleet_does_not(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    told = tmp_path / "told"
    program = f"import os; open({str(told)!r}, 'w').write(str(os.sched_getaffinity(0)))"
    assert fleet(program, cpus=(cpu,)).run(once(lambda: False)) == 0
    assert told.read_text() == str({cpu})
    assert os.sched_getaffinity(0) == before


def test_cpus_that_are_gone_are_done_without() -> None:
    assert fleet("pass", cpus=(4095,)).run(once(lambda: False)) == 0


def test_pauses_double_up_to_a_limit() -> None:
    pauses = RestartPauses(first_s=1, most_s=60)
    assert [pauses.after(n) for n in (1, 2, 3, 7, 5000)] == [1, 2, 4, 60, 60]
