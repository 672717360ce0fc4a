"The guard of the shipped file, and what bench/guard.csv tells of it"

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumoprune.guard import block_features, fit_guard, other_images
from pneumoprune.prediction import OnnxModel
from pneumoprune.synthetic import phantoms

ROOT = Path(__file__).parent.parent
RECORD = pd.read_csv(ROOT / "results/reference/guard.csv")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("guard")


@pytest.fixture
def measured():
    return pd.read_csv(ROOT / "bench/guard.csv")


def test_the_shipped_file_refuses_the_200_other_images_as_recorded():
    others, kinds = other_images(224)
    distance = OnnxModel().distance(others)
    recorded = RECORD[RECORD["split"] == "other"]
    assert len(others) == 200 and list(kinds) == list(recorded["name"])
    assert np.allclose(distance, recorded["distance"], rtol=1e-3)
    assert (distance > 1).mean() >= 0.95


def test_the_bench_tells_the_shares_of_the_reference_run(measured):
    whole = measured[(measured["part"] == "refused") & measured["kind"].isna()].set_index("subject")
    recorded = RECORD.assign(refused=RECORD["distance"] > 1).groupby("split")["refused"]
    assert whole["images"].to_dict() == recorded.size().to_dict()
    assert whole["value"].to_dict() == pytest.approx(recorded.mean().to_dict(), abs=1e-6)
    summary = json.loads((ROOT / "results/reference/summary.json").read_text(encoding="utf-8"))["guard"]
    assert summary["refused"] == pytest.approx(whole["value"].to_dict(), abs=1e-6)
    assert whole["value"]["val"] <= 0.01 and whole["value"]["test"] <= 0.02 and whole["value"]["other"] >= 0.95


def test_the_bench_tells_the_cost_of_the_file_that_ships(bench, measured):
    cost = measured[measured["part"] == "cost"].set_index(["measure", "subject"])["value"]
    assert cost["bytes", "with"] == bench.SHIPPED.stat().st_size < 1e5
    assert cost["bytes", "without"] == len(bench.without_guard())
    assert cost["milliseconds", "ratio"] <= 1.2


def test_other_features_are_fitted_as_the_guard_is(bench):
    xrays = phantoms(120, size=64, seed=0)
    guard, others = fit_guard(xrays), other_images(64, 18)[0]
    distance = bench.distance_by(block_features, xrays.part("train"))
    assert np.allclose(distance(others), guard.distance(others) * guard.limit, rtol=5e-3)  # its whitening is float16


def test_a_distance_that_is_not_the_recorded_one_ends_the_bench(bench):
    bench.compare_with_record(RECORD, RECORD)
    with pytest.raises(SystemExit, match="differs by up to 0.01"):
        bench.compare_with_record(RECORD.assign(distance=RECORD["distance"] + 0.01), RECORD)
    with pytest.raises(SystemExit, match="is of other images"):
        bench.compare_with_record(RECORD.assign(name=RECORD["name"] + "x"), RECORD)


def test_the_bench_compares_networks_of_the_shipped_widths(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    conv, linear = importlib.import_module("inference").shipped_widths()
    chosen = pd.read_csv(ROOT / "results/reference/rounds.csv")["widths"].iloc[-1]
    assert "-".join(map(str, conv + linear)) == chosen
