"The committed run: its statistics follow from its predictions, and its claims hold"

import importlib.util
import re
from pathlib import Path

import pytest

from pneumoprune.benchmark import speedups
from pneumoprune.cards import data_card, model_card
from pneumoprune.evaluation import shift_aucs
from pneumoprune.run import load_run, summarise

REFERENCE = Path(__file__).parent.parent / "results/reference"


@pytest.fixture(scope="module")
def run():
    return load_run(REFERENCE)


def flat(nested, at=""):
    "Nested dictionaries and lists as one dictionary, by path"
    if not isinstance(nested, (dict, list, tuple)):
        return {at: nested}
    parts = nested.items() if isinstance(nested, dict) else enumerate(nested)
    return {path: value for key, part in parts for path, value in flat(part, f"{at}.{key}").items()}


def test_metrics_follow_from_the_predictions(run):
    "To twelve digits: the last ones hang on the order in which a processor adds"
    again = summarise(run.predictions, resamples=run.info["settings"]["resamples"])
    stored = {name: {key: run.summary["models"][name][key] for key in again["models"][name]} for name in run.models}
    kept, found = flat(run.summary | {"models": stored}), flat(again)
    assert found.keys() <= kept.keys() and len(found) > 300
    for path, value in found.items():
        same = isinstance(value, (str, bool)) or value is None
        assert kept[path] == (value if same else pytest.approx(value, rel=1e-12, abs=1e-12)), path


def test_the_run_is_on_the_real_archive(run):
    counts = run.info["data"]["counts"]
    assert not run.synthetic and run.info["settings"]["size"] == 224
    assert counts["test"] == {"NORMAL": 234, "PNEUMONIA": 390}
    assert {k: counts["train"][k] + counts["val"][k] for k in counts["train"]} == {"NORMAL": 1341, "PNEUMONIA": 3875}
    patients = {split: set(run.part(split)["patient"]) for split in ("val", "test")}
    assert not patients["val"] & patients["test"]


def test_original_and_masked_were_trained_for_25_epochs(run):
    epochs = run.history.groupby("model")["epoch"]
    assert epochs.max()["original"] == epochs.max()["masked"] == 25
    assert (epochs.size()[["original", "masked"]] == 25).all()


def test_the_original_beats_the_published_accuracy(run):
    assert run.summary["models"]["original"]["test"]["accuracy"][0] >= 0.887


def test_compacted_is_masked_and_really_smaller(run):
    masked, compacted = (run.summary["models"][name] for name in ("masked", "compacted"))
    assert masked["size_mb"] > run.summary["models"]["original"]["size_mb"]
    assert compacted["size_mb"] < masked["size_mb"] / 5 and compacted["macs"] < masked["macs"]
    assert compacted["latency_ms"]["batch 1"] < masked["latency_ms"]["batch 1"]
    assert (run.predictions["masked"] - run.predictions["compacted"]).abs().max() < 1e-5
    # the same decision on every X-ray
    for threshold in (0.5, masked["threshold"]):
        assert ((run.predictions["masked"] >= threshold) == (run.predictions["compacted"] >= threshold)).all()


def test_slim_int8_is_a_thousand_times_smaller_and_sixty_times_faster(run):
    original, small = (run.summary["models"][name] for name in ("original", "slim-int8"))
    assert original["file_mb"] / small["file_mb"] >= 1000 and small["file_mb"] <= 0.21
    one = run.latency[(run.latency["batch"] == 1) & (run.latency["threads"] == 1)]
    for engine, target in (("pytorch", 60), ("onnxruntime", 45)):
        ratio = speedups(one, ("original", engine)).set_index("model").loc["slim-int8"]
        assert run.summary["speedups"][f"slim-int8 against original in {engine}"][0] == ratio["speedup"] >= target


def test_networks_are_non_inferior_as_the_readme_says(run):
    "A pin of what this run found, on test: no condition that another run would have to meet"
    assert set(run.summary["comparisons"]) == set(run.models) - {"original"}
    over_seeds = run.summary["seeds"]["comparisons"]
    assert over_seeds.keys() == run.summary["comparisons"].keys()
    assert all(c["noninferiority"]["noninferior"] for c in over_seeds.values())
    assert all(c["noninferiority"]["auc"]["verdict"] == "superior" for c in over_seeds.values())


def test_slim_holds_on_shifted_validation_with_every_seed(run):
    "Against the original of its own seed where there is one"
    slims = [name for name in run.predictions if re.fullmatch(r"slim(-seed-\d+)?", name)]
    originals = [name.replace("slim", "original") for name in slims]
    aucs = shift_aucs(run.predictions, [*slims, *(name for name in originals if name in run.predictions)]).mean()
    assert len(slims) >= 3
    for name, original in zip(slims, originals):
        tolerance = run.info["settings"]["slim"]["tolerance"]
        assert aucs[name] >= aucs[original if original in aucs else "original"] - tolerance


def test_the_stages_took_less_than_an_hour_and_a_half(run):
    assert sum(run.info["seconds"].values()) <= 90 * 60


def test_latency_was_measured_in_turn(run):
    "Every contender once in each turn"
    contenders = set(run.latency[["model", "engine"]].itertuples(index=False, name=None))
    turns = [
        list(turn[["model", "engine"]].itertuples(index=False, name=None))
        for _, turn in run.latency.groupby(["batch", "threads", "repeat"])
    ]
    assert all(len(turn) == len(contenders) and set(turn) == contenders for turn in turns)
    cases = run.latency[["batch", "threads"]].drop_duplicates()
    counts = run.latency.groupby(["batch", "threads"])["repeat"].nunique()
    assert len(cases) == 4 and counts.between(2, run.info["settings"]["repeats"]).all()  # a budget of seconds ends them
    assert (run.latency["milliseconds"] > 0).all()


def test_readme_states_the_numbers_that_were_measured():
    spec = importlib.util.spec_from_file_location("readme", REFERENCE.parents[1] / "report/readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = (REFERENCE.parents[1] / "README.md").read_text(encoding="utf-8")
    tables = ["rivals", "architectures", "slimming", "results", "speed", "elsewhere", "survives"]
    assert [found[2] for found in readme.MARKERS.finditer(text)] == tables
    assert text == readme.with_results(text), "run `make readme`"
    speed = (REFERENCE.parents[1] / "bench/results.md").read_text(encoding="utf-8")
    assert speed == readme.benchmarks_in_full(), "run `make readme`"


def test_the_evaluation_that_readme_shows_is_that_of_the_shipped_network(run):
    told = " ".join((REFERENCE.parents[1] / "bench/other_hospital.txt").read_text(encoding="utf-8").split())
    found, refused = run.summary["models"]["slim-int8"]["external"], run.summary["guard"]["refused"]["external"]
    for name, key in (("AUC", "auc"), ("accuracy", "accuracy"), ("Brier score", "brier")):
        value, low, high = found[key]
        assert f"{name} {value:.3f} ({low:.3f} to {high:.3f})" in told
    assert f"decides at {run.summary['models']['slim-int8']['threshold']:.3f}" in told
    assert f"no decision on {1000 * refused:.0f} of 1000 images" in told


def test_cards_are_those_of_the_run(run):
    models = REFERENCE.parents[1] / "pneumoprune/models"
    assert (models / "README.md").read_text(encoding="utf-8") == model_card(run), "run `make readme`"
    assert (models / "DATA.md").read_text(encoding="utf-8") == data_card(run), "run `make readme`"
