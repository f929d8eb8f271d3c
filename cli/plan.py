"""`nightshift plan`: what this machine is, and how many workers of a model it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_registry
from cli.display import emit, emit_json, format_bytes, print_pairs, print_table
from cli.flag_groups import Given, with_flag_groups
from cli.model_choice import split_name
from worker.planning.cpu_lists import format_cpus

if TYPE_CHECKING:
    from models.model_key import ModelKey
    from models.settings import Settings
    from worker.planning.demand import ModelDemand
    from worker.planning.description import Core, Machine
    from worker.planning.plan import Plan, WorkerShare
    from worker.planning.rooms import Reserve

RULE = (
    "of the machine the system keeps one hyperthread in eight, at most 4, in whole cores, and a "
    "fifth of the memory, at most 4 GiB; of a container's CPU quota it keeps nothing"
)
COLUMNS = ("WORKER", "NUMA", "CPUS", "THREADS", "KV CACHE", "KV TOKENS")


@with_flag_groups
def plan(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Registered name; else NIGHTSHIFT_MODEL.")
    ] = None,
    weights: options.WeightsKind = None,
    instances: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="So many workers; default: the best.")
    ] = None,
    as_json: options.AsJson = False,
    *,
    engine: Given,
) -> None:
    """Show cores, NUMA nodes, memory and limits here, and how many workers of a model fit.

    `worker --instances` starts them.
    """
    from worker.planning.reading import read_machine
    from worker.planning.rooms import reserve_of

    settings = load(context, **engine)
    machine = read_machine()
    name = model or settings.model
    if name is None:
        _show(machine, reserve_of(machine), None, None, as_json=as_json)
        return
    key = open_registry(settings).resolve(*split_name(name, weights))
    demand, made = plan_for(settings, machine, key, instances=instances)
    _show(machine, made.reserve, demand, made, as_json=as_json)


def plan_for(
    settings: Settings, machine: Machine, key: ModelKey, *, instances: int | None
) -> tuple[ModelDemand, Plan]:
    """The plan for a registered model; raises SettingsError where it does not fit."""
    from worker.planning.demand import demand_of
    from worker.planning.plan import plan_workers

    demand = demand_of(
        open_registry(settings).entry(key),
        max_sequences=settings.max_sequences,
        context_tokens=settings.context_tokens,
        threads=settings.threads,
        kv_cache_bytes=settings.kv_cache_bytes,
    )
    return demand, plan_workers(machine, demand, instances)


def _show(
    machine: Machine,
    reserve: Reserve,
    demand: ModelDemand | None,
    made: Plan | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        emit_json(_as_dict(machine, reserve, demand, made))
        return
    pairs = [*_machine_pairs(machine), ("system", _reserve_line(reserve))]
    if demand is None or made is None:
        print_pairs(pairs)
        emit("\ngive --model NAME to see how many workers of a model fit")
        return
    print_pairs([*pairs, ("model", _model_line(demand))])
    emit("")
    rows = [_row(number, share) for number, share in enumerate(made.workers, start=1)]
    print_table(COLUMNS, rows)
    emit("")
    for note in (RULE, *made.notes):
        emit(f"- {note}")


def _machine_pairs(machine: Machine) -> list[tuple[str, str]]:
    quota = "" if machine.quota_cores is None else f", a quota of {machine.quota_cores:g} cores"
    caches = (
        f"L{cache.level} {cache.count} x {cache.size_bytes // 1024} KiB" for cache in machine.caches
    )
    nodes = "; ".join(
        f"node {node.id}: {len(node.cores)} cores, {format_bytes(node.free_bytes)} free"
        for node in machine.nodes
    )
    free, total = format_bytes(machine.free_bytes), format_bytes(machine.total_bytes)
    return [
        ("cores", f"{len(machine.cores)}, {machine.num_cpus} hyperthreads{quota}"),
        ("NUMA", nodes),
        ("caches", ", ".join(caches) or "unknown"),
        ("memory", f"{free} free of {total}"),
    ]


def _reserve_line(reserve: Reserve) -> str:
    cpus = format_cpus(_cpus_of(reserve.cores))
    return f"keeps {f'CPUs {cpus}' if cpus else 'no CPU'} and {format_bytes(reserve.memory_bytes)}"


def _model_line(demand: ModelDemand) -> str:
    return (
        f"{demand.name}, {format_bytes(demand.fixed_bytes)} for each worker without its KV cache, "
        f"of which one token takes {format_bytes(demand.kv_bytes_per_token)}"
    )


def _row(number: int, share: WorkerShare) -> tuple[str, ...]:
    return (
        str(number),
        format_cpus(share.node_ids),
        format_cpus(share.cpus),
        str(share.threads),
        format_bytes(share.kv_cache_bytes),
        str(share.kv_tokens),
    )


def _cpus_of(cores: Iterable[Core]) -> tuple[int, ...]:
    return tuple(cpu for core in cores for cpu in core.cpus)


def _as_dict(
    machine: Machine, reserve: Reserve, demand: ModelDemand | None, made: Plan | None
) -> dict[str, object]:
    system = {
        "cpus": format_cpus(_cpus_of(reserve.cores)),
        "memory_bytes": reserve.memory_bytes,
        "rule": RULE,
    }
    found: dict[str, object] = {"machine": _machine_dict(machine), "system": system}
    if demand is not None and made is not None:
        found["model"] = dataclasses.asdict(demand)
        found["workers"] = [
            {**dataclasses.asdict(share), "cpus": format_cpus(share.cpus)} for share in made.workers
        ]
        found["notes"] = list(made.notes)
    return found


def _machine_dict(machine: Machine) -> dict[str, object]:
    nodes = [
        {
            "id": node.id,
            "cores": len(node.cores),
            "cpus": format_cpus(_cpus_of(node.cores)),
            "free_bytes": node.free_bytes,
        }
        for node in machine.nodes
    ]
    return {**dataclasses.asdict(machine), "nodes": nodes}
