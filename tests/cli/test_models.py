"""The registry's commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import EXPECTED, MODEL, PROMPTS


def test_a_model_is_added_once_shown_requantized_and_removed(console: Console) -> None:
    added = console.call("model", "add", MODEL, "--name", "small", "--weights", "bf16")
    assert (added.returncode, added.stdout) == (0, "small:bf16\n")
    assert re.search(r"quantizing to bf16 took .* s and .*B of memory", added.stderr)
    again = console.call("model", "add", MODEL, "--name", "small", "--weights", "bf16")
    assert (again.returncode, again.stdout, again.stderr) == (0, "small:bf16\n", "")

    made = json.loads(console.succeed("model", "quantize", "small", "--weights", "int4", "--json"))
    assert (made["name"], made["weights"]) == ("small", "int4")
    listed = json.loads(console.succeed("model", "list", "--json"))
    assert [entry["weights"] for entry in listed] == ["bf16", "int4"]
    assert listed[0]["source"] == listed[1]["source"]

    shown = json.loads(console.succeed("model", "show", "small:int4", "--json"))
    assert shown == made
    assert_one_sentence(console.call("model", "show", "small"), "bf16, int4", "--weights")

    console.succeed("model", "remove", "small", "--weights", "bf16")
    assert [line.split()[:2] for line in console.succeed("model", "list").splitlines()[1:]] == [
        ["small", "int4"]
    ]


def test_each_backend_has_artifacts_of_its_own(console: Console) -> None:
    for flags in ((), ("--backend", "transformers")):
        console.succeed("model", "add", MODEL, "--name", "small", "--weights", "int8", *flags)
    listed = json.loads(console.succeed("model", "list", "--json"))
    assert [entry["backend"] for entry in listed] == ["native", "transformers"]
    assert len({entry["folder"] for entry in listed}) == 2
    console.succeed("model", "remove", "small", "--weights", "int8")
    missing = console.call("model", "show", "small:int8")
    assert_one_sentence(missing, "nightshift model add", "--weights int8`")
    shown = console.succeed("model", "show", "small:int8", "--backend", "transformers", "--json")
    assert json.loads(shown) == listed[1]
    console.succeed("model", "remove", "small:int8", "--backend", "transformers")
    missing = console.call("model", "show", "small:int8", "--backend", "transformers")
    assert_one_sentence(missing, "--backend transformers`")


def test_a_model_of_one_backend_is_quantized_for_another(console: Console) -> None:
    console.succeed("model", "add", MODEL, "--name", "small", "--weights", "int8")
    flags = ("--weights", "int8", "--backend", "transformers", "--json")
    made = json.loads(console.succeed("model", "quantize", "small", *flags))
    assert (made["backend"], made["source"]) == ("transformers", str(MODEL))


def test_options_of_ipex_are_refused_elsewhere_and_by_name(console: Console) -> None:
    for options, reason in (("lowp=int8", "--backend ipex"), ("lowp=fp8", "none or fp16 or bf16")):
        ended = console.call("model", "add", MODEL, "--ipex-option", options)
        assert ended.returncode == 2
        assert_one_sentence(ended, "--ipex-option", reason)
    assert json.loads(console.succeed("model", "list", "--json")) == []


def test_int4_is_calibrated_on_requests_and_their_answers(console: Console, tmp_path: Path) -> None:
    add = ("model", "add", MODEL, "--weights", "int4", "--json")
    plain = json.loads(console.succeed(*add))
    quantize = ("model", "quantize", MODEL.name, "--weights", "int4", "--calibrate", PROMPTS)
    answered = (*quantize, "--calibrate-answers", EXPECTED, "--json")
    made = json.loads(console.succeed(*answered))
    assert made["recipe"].keys() - plain["recipe"].keys() == {"calibration"}
    assert json.loads(console.succeed(*add))["digest"] == made["digest"]
    shown = console.succeed("model", "show", MODEL.name)
    assert f"calibration {made['recipe']['calibration']}" in shown

    output = tmp_path / "output.jsonl"
    console.succeed("run", PROMPTS, "-o", output, "--model", MODEL.name)
    other = json.loads(console.succeed(*quantize, "--calibrate-answers", output, "--json"))
    assert other["recipe"]["calibration"] != made["recipe"]["calibration"]


def test_int4_gets_zero_points_when_it_is_asked_for(console: Console) -> None:
    add = ("model", "add", MODEL, "--name", "small", "--weights", "int4", "--json")
    made = json.loads(console.succeed(*add, "--int4-zero-points"))
    assert made["recipe"]["zeros"] == "per group"
    assert json.loads(console.succeed(*add))["digest"] == made["digest"]
    plain = json.loads(console.succeed(*add, "--int4-group", "128"))
    assert "zeros" not in plain["recipe"]


def test_what_nothing_can_be_calibrated_on_is_refused(console: Console, tmp_path: Path) -> None:
    foreign = tmp_path / "answers.jsonl"
    foreign.write_text('{"custom_id": "nobody", "answer": "42"}\n')
    for flags, reason in (
        (("--weights", "int8", "--calibrate", PROMPTS), "no layer gets int4"),
        (("--weights", "int4", "--calibrate-answers", EXPECTED), "give --calibrate FILE"),
        (("--weights", "int4", "--calibrate", tmp_path / "none.jsonl"), "none.jsonl"),
        (("--weights", "int4", "--calibrate", PROMPTS, "--calibrate-answers", foreign),
         "answers no request"),
        (("--weights", "int4", "--calibrate", PROMPTS, "--backend", "transformers"),
         "--backend native"),
    ):  # fmt: skip
        ended = console.call("model", "add", MODEL, "--name", "small", *flags)
        assert ended.returncode != 0
        assert_one_sentence(ended, reason)
    assert json.loads(console.succeed("model", "list", "--json")) == []


def test_quantizing_an_unknown_model_says_how_to_add_it(console: Console) -> None:
    ended = console.call("model", "quantize", "nope", "--weights", "int8")
    assert ended.returncode == 3
    assert_one_sentence(ended, "nightshift model add")
