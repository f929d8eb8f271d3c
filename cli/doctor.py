"""`nightshift doctor`: what works here, and what to do about what does not."""

from __future__ import annotations

import dataclasses
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import options, processor
from cli.context import load, open_database, open_registry
from cli.display import emit, emit_json, format_bytes, print_pairs
from models.errors import KernelsUnavailable, NightshiftError, SettingsError, UnavailableError

if TYPE_CHECKING:
    from models.settings import Settings

PACKAGES = ("torch", "transformers", "tokenizers", "celery", "sqlalchemy", "redis")
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `advice` is what to do when it is not ok."""

    name: str
    ok: bool
    value: str
    advice: str = ""
    exit_code: int = 1


def doctor(context: typer.Context, as_json: options.AsJson = False) -> None:
    """Show what works here: processor, kernels, memory, Redis, database, models, settings.

    Exits with 0 when Nightshift can run here.
    """
    checks = [_python(), _packages(), _processor(), _int8_kernel(), _memory()]
    values: dict[str, str] = {}
    try:
        settings = load(context)
    except SettingsError as exc:
        checks.append(Check("settings", False, "cannot be used", str(exc), exc.exit_code))
    else:
        checks.extend(_checks_of_services(settings))
        values = _values(settings)
    _report(checks, values, as_json=as_json)
    failed = [check for check in checks if not check.ok]
    if failed:
        raise typer.Exit(failed[0].exit_code)


def _report(checks: list[Check], values: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        found = [dataclasses.asdict(check) for check in checks]
        usable = all(check.ok for check in checks)
        emit_json({"usable": usable, "checks": found, "settings": values})
        return
    _print_checks(checks)
    if values:
        emit("")
        print_pairs(list(values.items()))


def _print_checks(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok  " if check.ok else "FAIL"
        emit(f"{mark}  {check.name.ljust(width)}  {check.value}")
        if not check.ok and check.advice:
            emit(f"      {' ' * width}  {check.advice}")


def _checks_of_services(settings: Settings) -> Iterator[Check]:
    yield _home(settings.home)
    yield _kernels(settings)
    for name, look in (("redis", _redis), ("database", _database), ("models", _models)):
        yield _guarded(name, look, settings)


def _guarded(name: str, look: Callable[[Settings], str], settings: Settings) -> Check:
    try:
        return Check(name, True, look(settings))
    except NightshiftError as exc:
        return Check(name, False, "cannot be used", str(exc), exc.exit_code)


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check("python", good, platform.python_version(), "install Python 3.11 or newer")


def _packages() -> Check:
    found: list[str] = []
    missing: list[str] = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    advice = f"install {', '.join(missing)}: pip install -e '.[worker]'" if missing else ""
    return Check("packages", not missing, ", ".join(found), advice)


def _processor() -> Check:
    from worker.backends.machine import usable_cores

    features = ", ".join(processor.cpu_features()) or "no vector instructions that help"
    value = f"{processor.cpu_name()}, {usable_cores()} cores usable, {features}"
    return Check("processor", True, value)


def _int8_kernel() -> Check:
    probe = processor.probe_int8_kernel()
    if probe.kernel is None:
        return Check(
            "int8 kernel", False, "does not run", f"use --weights bf16 here: {probe.problem}"
        )
    return Check("int8 kernel", True, probe.kernel)


def _kernels(settings: Settings) -> Check:
    """Without them everything runs, only slower: never a failure."""
    from worker.llm.native.build import has_amx, load_library

    if settings.kernel_cache_path is None:
        return Check("compiled kernels", True, "PyTorch alone: NIGHTSHIFT_COMPILED_KERNELS is off")
    try:
        load_library(settings.kernel_cache_path)
    except KernelsUnavailable as exc:
        return Check("compiled kernels", True, f"PyTorch alone, slower: {exc}")
    multiplied = "int4 weights; int8 runs on oneDNN" if has_amx() else "int8 and int4 weights"
    return Check("compiled kernels", True, f"compiled for this processor, for {multiplied} too")


def _memory() -> Check:
    import psutil

    from worker.backends.machine import free_memory_bytes, total_memory_bytes

    free, total = free_memory_bytes(), total_memory_bytes()
    limited = " (the container's limit)" if total < psutil.virtual_memory().total else ""
    return Check("memory", True, f"{format_bytes(free)} free of {format_bytes(total)}{limited}")


def _home(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return Check("home", True, f"{home}, {format_bytes(free)} free on the disk")


def _redis(settings: Settings) -> str:
    if settings.broker_url is None:
        return "not configured: batches run embedded, on this machine"
    import redis

    try:
        client = redis.Redis.from_url(
            settings.broker_url, socket_connect_timeout=3, socket_timeout=3
        )
        with client:
            answer = client.info("server")
    except (redis.RedisError, ValueError, OSError) as exc:
        raise UnavailableError(
            f"start Redis or correct the broker URL: {_CREDENTIALS.sub('***@', str(exc))}"
        ) from exc
    return f"{_masked(settings.broker_url)}, Redis {answer.get('redis_version', 'unknown')}"


def _database(settings: Settings) -> str:
    with open_database(settings):
        return _masked(settings.resolved_database_url)


def _models(settings: Settings) -> str:
    entries = open_registry(settings).entries()
    if not entries:
        return "none yet: `nightshift model add` registers one, and so does `run --model FOLDER`"
    return ", ".join(str(entry.key) for entry in entries)


def _values(settings: Settings) -> dict[str, str]:
    """Every setting under its variable's name, passwords left out."""
    from models.settings import variable_name

    return {
        variable_name(name): _shown(settings, name) for name in sorted(type(settings).model_fields)
    }


def _shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    shown = "unset" if value is None else _masked(str(value))
    return shown if name in settings.model_fields_set else f"{shown} (default)"


def _masked(url: str) -> str:
    return _CREDENTIALS.sub("***@", url)
