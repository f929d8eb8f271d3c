"""From a plan to the processes of `nightshift worker --instances`: the same command, once each."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cli.context import open_database
from cli.plan import plan_for

if TYPE_CHECKING:
    from models.model_key import ModelKey
    from models.settings import Settings
    from worker.fleet import Fleet
    from worker.planning.plan import WorkerShare

_KILL_GRACE_S = 15.0  # beyond the time to drain, after which workers end by themselves


def build_fleet(settings: Settings, key: ModelKey, count: int | None) -> Fleet:
    """The workers of a registered model as the plan shares this machine out; None: its own number.

    Raises SettingsError where they do not fit.
    """
    from worker.fleet import Fleet, Member
    from worker.planning.reading import read_machine

    _, plan = plan_for(settings, read_machine(), key, instances=count)
    if settings.broker_url is None:
        with open_database(settings, create=True):
            pass  # or each of them would make it
    members = [
        Member(number, member_command(key), member_environment(settings, share), share.cpus)
        for number, share in enumerate(plan.workers, start=1)
    ]
    return Fleet(members, kill_after_s=settings.drain_timeout_s + _KILL_GRACE_S)


def member_command(key: ModelKey) -> tuple[str, ...]:
    """An ordinary worker that drains when its standard input ends."""
    model = ("--model", key.name, "--weights", str(key.weights))
    return (sys.executable, "-P", "-m", "cli", "worker", *model, "--until-eof")


def member_environment(settings: Settings, share: WorkerShare) -> dict[str, str]:
    """This process's environment with the settings in it, flags included, and the share's part.

    As variables and not as flags: everybody on the machine can read a command line.
    """
    from models.settings import ENV_PREFIX, environment_of, variable_name
    from worker.backends.process_environment import import_path

    kept = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    planned = {
        variable_name("threads"): str(share.threads),
        variable_name("kv_cache_bytes"): str(share.kv_cache_bytes),
    }
    path = {"PYTHONPATH": import_path(os.environ)}
    return {**kept, **planned, **environment_of(settings), **path}
