"""How many workers, where, and how wide: shown on machines that are only described."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SettingsError
from tests.planning.machines import (
    GIB,
    LAPTOP,
    LLAMA_8B,
    SMALL_135M,
    TINY,
    TWO_CORES,
    TWO_SOCKETS,
    machine,
)
from worker.planning.cpu_lists import format_cpus
from worker.planning.demand import PROCESSES_BYTES, ModelDemand
from worker.planning.description import Machine
from worker.planning.plan import Plan, plan_workers


def cpus_of(plan: Plan) -> list[str]:
    return [format_cpus(share.cpus) for share in plan.workers]


def threads_of(plan: Plan) -> list[int]:
    return [share.threads for share in plan.workers]


def test_each_socket_gets_one_wide_worker_and_the_system_four_hyperthreads() -> None:
    plan = plan_workers(TWO_SOCKETS, LLAMA_8B)
    assert cpus_of(plan) == ["1-31,65-95", "33-63,97-127"]
    assert threads_of(plan) == [31, 31]
    assert [share.node_ids for share in plan.workers] == [(0,), (1,)]
    assert [core.cpus for core in plan.reserve.cores] == [(0, 64), (32, 96)]
    assert plan.reserve.memory_bytes == 4 * GIB
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("cpus", "reserved"), [(2, 0), (4, 0), (8, 1), (16, 2), (24, 3), (32, 4), (96, 4)]
)
def test_the_system_keeps_less_of_a_small_machine(cpus: int, reserved: int) -> None:
    plan = plan_workers(machine(1, cpus, gib_of_node=64), LLAMA_8B)
    assert len(plan.reserve.cores) == reserved
    assert sum(threads_of(plan)) == cpus - reserved


def test_a_small_machine_keeps_a_fifth_of_its_memory() -> None:
    plan = plan_workers(machine(1, 4, gib_of_node=10), SMALL_135M)
    assert plan.reserve.memory_bytes == 2 * GIB


def test_two_cores_are_one_worker_that_has_both() -> None:
    plan = plan_workers(TWO_CORES, LLAMA_8B)
    assert (cpus_of(plan), threads_of(plan)) == (["0-1"], [2])
    (share,) = plan.workers
    assert share.kv_cache_bytes == 23 * GIB - 4 * GIB - 8 * GIB - PROCESSES_BYTES
    assert share.kv_tokens == share.kv_cache_bytes // (128 * 1024)


def test_a_laptop_is_one_worker() -> None:
    plan = plan_workers(LAPTOP, LLAMA_8B)
    assert (cpus_of(plan), threads_of(plan)) == (["1-7,9-15"], [7])


def test_a_wide_node_is_cut_where_its_caches_end() -> None:
    plan = plan_workers(machine(1, 96, gib_of_node=384, cores_of_cache=8), LLAMA_8B)
    assert cpus_of(plan) == ["4-31", "32-63", "64-95"]


def test_a_small_model_gets_more_and_narrower_workers() -> None:
    plan = plan_workers(TWO_SOCKETS, SMALL_135M)
    assert len(plan.workers) == 16
    assert set(threads_of(plan)) == {3, 4}


def test_a_tiny_model_computes_with_one_thread_beside_its_worker() -> None:
    plan = plan_workers(machine(1, 4, gib_of_node=16), TINY)
    assert (cpus_of(plan), threads_of(plan)) == (["0-1", "2-3"], [1, 1])


def test_memory_decides_where_it_is_scarcer_than_cores() -> None:
    plan = plan_workers(machine(1, 96, gib_of_node=38), LLAMA_8B)
    (first, second) = plan.workers
    assert first.kv_cache_bytes >= LLAMA_8B.good_kv_bytes
    assert first.threads + second.threads == 92


def test_a_quota_gives_threads_and_no_cores_of_its_own() -> None:
    plan = plan_workers(
        machine(2, 32, threads_per_core=2, gib_of_node=256, quota_cores=6.5, free_gib=30), LLAMA_8B
    )
    assert (cpus_of(plan), threads_of(plan)) == (["0-31,64-95"], [6])
    assert plan.reserve.cores == ()
    assert any("quota" in note for note in plan.notes)


def test_a_quota_of_more_than_a_node_is_shared_by_nodes() -> None:
    plan = plan_workers(machine(2, 32, gib_of_node=256, quota_cores=40), LLAMA_8B)
    assert threads_of(plan) == [20, 20]
    assert [share.node_ids for share in plan.workers] == [(0,), (1,)]


def test_a_container_with_memory_for_one_worker_leaves_a_node_unused() -> None:
    limited = machine(2, 16, gib_of_node=128, total_gib=16, free_gib=16)
    plan = plan_workers(limited, LLAMA_8B)
    assert [share.node_ids for share in plan.workers] == [(0,)]
    assert plan.notes == ("NUMA node 1 stays unused, because no more workers fit",)


def test_a_worker_spans_nodes_only_where_none_alone_has_room() -> None:
    plan = plan_workers(
        machine(4, 4, gib_of_node=8), dataclasses.replace(LLAMA_8B, weight_bytes=10 * GIB)
    )
    assert [share.node_ids for share in plan.workers] == [(0, 1, 2, 3)]
    assert "a worker spans NUMA nodes, because no node alone has room for it" in plan.notes


def test_so_many_workers_as_are_asked_for() -> None:
    plan = plan_workers(TWO_SOCKETS, LLAMA_8B, instances=3)
    assert threads_of(plan) == [16, 15, 31]
    assert [share.node_ids for share in plan.workers] == [(0,), (0,), (1,)]


def test_what_the_user_chose_is_kept() -> None:
    chosen = dataclasses.replace(LLAMA_8B, threads=8, kv_cache_bytes=3 * GIB)
    plan = plan_workers(TWO_SOCKETS, chosen)
    assert set(threads_of(plan)) == {8}
    assert len(plan.workers) == 8
    assert {share.kv_cache_bytes for share in plan.workers} == {3 * GIB}


@pytest.mark.parametrize(
    ("described", "instances", "parts"),
    [
        (machine(1, 4, gib_of_node=8), None, ("1 worker of llama-8b:int8", "int4", "free")),
        (machine(1, 4, gib_of_node=30), 3, ("3 workers", "give --instances 2 or less")),
        (TWO_CORES, 5, ("5 workers need a core each", "give --instances 2 or less")),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence_with_advice(
    described: Machine, instances: int | None, parts: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as caught:
        plan_workers(described, LLAMA_8B, instances)
    for part in parts:
        assert part in str(caught.value)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    return machine(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 48)),
        threads_per_core=draw(st.integers(1, 2)),
        gib_of_node=draw(st.integers(2, 128)),
        cores_of_cache=draw(st.sampled_from([None, 4, 8])),
        quota_cores=draw(st.sampled_from([None, 0.5, 3.0, 20.0])),
    )


@given(
    machines(),
    st.sampled_from([LLAMA_8B, SMALL_135M, TINY]),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_no_plan_gives_anything_twice_or_more_than_there_is(
    described: Machine, demand: ModelDemand, instances: int | None
) -> None:
    try:
        plan = plan_workers(described, demand, instances)
    except SettingsError:
        return
    assert instances in (None, len(plan.workers))
    reserved = {cpu for core in plan.reserve.cores for cpu in core.cpus}
    given_out = [cpu for share in plan.workers for cpu in share.cpus]
    assert not reserved & set(given_out)
    if described.quota_cores is None:
        assert len(given_out) == len(set(given_out))
    else:
        most = min(described.quota_cores, len(described.cores))
        assert sum(share.threads for share in plan.workers) <= max(1, most)
    taken = sum(share.kv_cache_bytes + demand.fixed_bytes for share in plan.workers)
    assert taken <= described.free_bytes - plan.reserve.memory_bytes
    assert all(share.kv_cache_bytes >= demand.least_kv_bytes for share in plan.workers)
    assert all(share.threads >= 1 and share.cpus for share in plan.workers)
