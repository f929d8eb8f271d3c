"""Trials: what voids one, what a runner may not hide, which engines there are."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.__main__ import main
from benchmarks.engines import ENGINES, choose_engines, choose_works
from benchmarks.pipeline_runner import read_counts, write_input
from benchmarks.prepare import PROJECT
from benchmarks.trials import Run, TreeUsage, read_report, watch
from benchmarks.workloads import Workload, build_short, build_workload
from models.generation import TokenPrompt
from models.wire.input import read_lines
from models.wire.limits import InputLimits
from models.wire.lines import AcceptedLine


def report_line(workload: Workload, *, missing_tokens: int = 0, missing_requests: int = 0) -> str:
    """A runner's report on a workload."""
    outputs = [request.output_tokens for request in workload.requests]
    outputs[0] -= missing_tokens
    inputs = [len(request.token_ids) for request in workload.requests]
    kept = len(inputs) - missing_requests
    counts = {"input_counts": inputs[:kept], "output_counts": outputs[:kept]}
    return json.dumps({"seconds": 1.0, "load_seconds": 2.0, **counts})


def run_of(output: str, exit_code: int = 0) -> Run:
    """A run that printed `output`."""
    return Run(exit_code=exit_code, output=output, peak_rss_bytes=1, other_cpu_seconds=0.0)


def test_exact_token_counts_are_no_problem() -> None:
    workload = build_workload("A")
    report, problem = read_report(run_of(f"noise\n{report_line(workload)}\nmore noise"), workload)
    assert report is not None
    assert problem is None


@pytest.mark.parametrize(
    ("output", "exit_code", "problem"),
    [
        (report_line(build_workload("A"), missing_tokens=1), 0, "1 requests have other token"),
        (report_line(build_workload("A"), missing_requests=3), 0, "3 requests have other token"),
        (report_line(build_workload("A")), 3, "ended with code 3"),
        ("nothing of use", 0, "printed no report"),
    ],
)
def test_anything_else_voids_the_trial(output: str, exit_code: int, problem: str) -> None:
    _, found = read_report(run_of(output, exit_code), build_workload("A"))
    assert found is not None
    assert problem in found


def test_a_runner_is_watched_with_its_children(tmp_path: Path) -> None:
    child = "import time; held = bytearray(64 << 20); time.sleep(2.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print(7)"
    run = watch([sys.executable, "-c", parent], tmp_path / "trial.log")
    assert (run.exit_code, run.output) == (0, "7\n")
    assert run.peak_rss_bytes > 64 << 20


def test_what_a_process_has_used_is_kept_while_it_ends() -> None:
    held = "held = bytearray(64 << 20); print(len(held), flush=True); input()"
    usage = TreeUsage()
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{64 << 20}\n"
        usage.look(process.pid)
        process.kill()
        until_s = time.monotonic() + 20
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until_s
        usage.look(process.pid)
    assert usage.peak_rss_bytes > 64 << 20
    assert usage.cpu_seconds > 0


def test_every_engine_has_its_runner_its_environment_and_works() -> None:
    for spec in ENGINES.values():
        assert importlib.util.find_spec(spec.runner) is not None
        assert set(spec.works) <= set(choose_works("all"))
        if spec.environment == "ipex":
            assert (PROJECT / "constraints-ipex.txt").is_file()
        elif spec.environment is not None:
            assert (PROJECT / "benchmarks/environments" / f"{spec.environment}.txt").is_file()


def test_engines_are_chosen_by_name_and_by_group() -> None:
    chosen = [spec.name for spec in choose_engines("vllm-w8a8,ours")]
    assert chosen[0] == "vllm-w8a8"
    assert set(chosen[1:]) == {name for name, spec in ENGINES.items() if spec.is_ours}
    ipex = {spec.name for spec in choose_engines("ipex")}
    assert ipex.isdisjoint(spec.name for spec in choose_engines("all,peers,ours"))
    assert len(ipex) == 8
    with pytest.raises(ValueError, match="there is no engine 'vllm'; choose from all"):
        choose_engines("vllm")
    with pytest.raises(ValueError, match="there is no work 'C'; choose from all, A"):
        choose_works("A,C")


def test_the_command_line_refuses_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engines", "fastest"]) == 2
    assert "there is no engine 'fastest'" in capsys.readouterr().err


def test_the_pipeline_gets_every_request_as_it_is(tmp_path: Path) -> None:
    workload = build_short(256, count=5)
    write_input(workload, tmp_path / "input.jsonl")
    limits = InputLimits(max_requests=10, max_file_bytes=10**6, max_line_bytes=10**5)
    lines = list(
        read_lines(tmp_path / "input.jsonl", model_name="demo", defaults=None, limits=limits)
    )
    assert [line.prompt for line in lines if isinstance(line, AcceptedLine)] == [
        TokenPrompt(token_ids=request.token_ids) for request in workload.requests
    ]


def test_the_pipeline_counts_a_missing_answer_as_no_tokens(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 4}
    answer = {"custom_id": "1", "response": {"body": {"usage": usage}}}
    (tmp_path / "output.jsonl").write_text(json.dumps(answer) + "\n")
    counts = read_counts(tmp_path / "output.jsonl", 3)
    assert (counts.input, counts.output) == ([0, 8, 0], [0, 4, 0])


def test_a_prefix_cache_is_on_only_where_there_is_something_to_share() -> None:
    spec = ENGINES["openvino-int8"]
    assert spec.settings_for(build_workload("A"))["prefix_cache"] is False
    assert spec.settings_for(build_workload("B"))["prefix_cache"] is True
    assert "prefix_cache" not in ENGINES["nightshift-int8"].settings_for(build_workload("B"))
