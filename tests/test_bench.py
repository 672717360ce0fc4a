"Goals, medians and the table of README.md that come from bench/results.json"

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def module(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def bench():
    return module("bench/common.py")


def test_a_goal_is_compared_with_the_median(bench):
    more = bench.row("faster", [3.0, 4.0, 9.0], "times", least=4)
    less = bench.row("step", [40.0, 51.0, 90.0], "ms", most=50, why="the optimiser")
    assert more == {"what": "faster", "unit": "times", "median": 4, "q1": 3.5, "q3": 6.5, "turns": 3, "goal": "≥ 4",
                    "reached": True}
    assert (less["goal"], less["reached"], less["why"]) == ("≤ 50", False, "the optimiser")
    assert "why" not in bench.row("step", 49.0, "ms", most=50, why="the optimiser")


def test_contenders_take_turns_and_the_first_round_does_not_count(bench):
    heard = []
    turns = list(bench.in_turns({name: lambda name=name: heard.append(name) or len(heard) for name in "ab"}, 2))
    assert "".join(heard) == "ababab" and turns == [{"a": 3, "b": 4}, {"a": 5, "b": 6}]


def test_numbers_of_another_machine_do_not_stay_beside_new_ones(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    bench.keep("growth", {"rows": [1]})
    bench.keep("training", {"rows": [2]})
    found = json.loads(bench.RESULTS.read_text(encoding="utf-8"))
    assert list(found["parts"]) == ["training", "growth"] and found["machine"]["versions"]["torch"]
    monkeypatch.setattr(bench, "machine", lambda: {"cpu": "another"})
    bench.keep("growth", {"rows": [3]})
    assert json.loads(bench.RESULTS.read_text(encoding="utf-8"))["parts"] == {"growth": {"rows": [3]}}


def test_every_part_is_a_file_of_its_own(bench):
    assert all((ROOT / f"bench/{part}.py").exists() for part in bench.PARTS)


def test_the_table_tells_what_was_reached_and_why_not(bench, tmp_path):
    rows = [bench.row("a", [5.0], "times", least=4), bench.row("b", [60.0, 70.0], "ms", most=50, why="the optimiser"),
            bench.row("c", [7.0], "ms"), bench.row("d", [1.0, 2.0], "times")]
    machine = {"cpu": "Xeon", "threads": 2, "versions": {"torch": "2.9"}}
    path = tmp_path / "results.json"
    part = {"seconds": 61, "data": "phantoms", "rows": rows}
    path.write_text(json.dumps({"machine": machine, "parts": {"training": part}}), encoding="utf-8")
    readme = module("report/readme.py")
    text, full = readme.benchmarks(path), readme.benchmarks_in_full(path)
    for told in (text, full):
        assert "| a | 5 times | ≥ 4 | reached |" in told and "| b | 65 (62.5–67.5) ms | ≤ 50 | missed |" in told
    assert "| c |" not in text and "| d |" not in text and "in 1 minutes" in text
    assert "| d | 1.5 (1.25–1.75) times |" in full and "- **b**: the optimiser." in full and "torch 2.9" in full


def test_a_part_measures_and_keeps_its_rows(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(sys, "argv", ["bench/starting.py", "--threads", "1"])
    bench.run(lambda data: [bench.row("start", 0.1, "s", most=0.2)])
    (part,) = json.loads(bench.RESULTS.read_text(encoding="utf-8"))["parts"].values()
    assert part["data"] == "phantoms" and part["rows"][0]["reached"]
    assert "start: 0.1 s" in capsys.readouterr().out
