"What is asked of a run: noise of learning curves, image sizes, and files that are missing"

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import simulated_run

from pneumoprune.core import PneumopruneError
from pneumoprune.evaluation import metrics
from pneumoprune.run import (
    curve_jumps,
    curve_noise,
    image_sides,
    load_run,
    prunings,
    roughness,
    seed_columns,
    steady_stretches,
    summarise,
)
from pneumoprune.training import TrainSettings

CURVE = st.lists(st.floats(-1, 1), min_size=3, max_size=30)


RUN = simulated_run(3, models=("original",))


def with_curve(accuracy, progression=(), size=224):
    "A run whose original has this validation accuracy"
    epochs = pd.DataFrame({"model": "original", "epoch": np.arange(len(accuracy)) + 1, "val_accuracy": accuracy})
    training = RUN.info["settings"]["original"] | {"epochs": len(accuracy), "progression": progression}
    chosen = RUN.info["settings"] | {"original": training, "size": size}
    history = epochs.assign(val_loss=1 - epochs["val_accuracy"])
    return dataclasses.replace(RUN, history=history, info=RUN.info | {"settings": chosen})


def test_a_smooth_ramp_has_less_noise_than_a_jagged_plateau():
    epochs = np.arange(25)
    ramp = 0.95 - 0.47 * np.exp(-epochs / 1.2)  # 48, 75, 87, 91 … per cent: half of all learning in three epochs
    plateau = 0.95 + 0.005 * np.random.default_rng(0).normal(size=25)
    smooth, jagged = (curve_noise(with_curve(curve), "original")["accuracy"] for curve in (ramp, plateau))
    assert smooth[0] < smooth[2] < jagged[1] < 0.5 < jagged[2]
    # the ramp of the plateau's own curve is left out by rule, so that it does not hide how smooth the rest is
    assert roughness(100 * ramp)[0] > 3 * smooth[0]


def test_a_change_of_image_size_is_a_jump_and_no_noise():
    plateau = 0.95 + 0.002 * np.random.default_rng(1).normal(size=20)
    step = plateau - 0.05 * (np.arange(20) >= 10)
    calm, stepped = (with_curve(curve, [(0.5, 0.7), (0.5, 1.0)]) for curve in (plateau, step))
    for quantity in ("accuracy", "loss"):
        assert curve_noise(stepped, "original")[quantity] == pytest.approx(curve_noise(calm, "original")[quantity])
    jumps = curve_jumps(stepped, "original")
    assert jumps["epoch"].tolist() == [11] and jumps["larger"].all() and not jumps["pruned"].any()
    assert -6 < jumps["points"].item() < -4


def test_no_stretch_spans_a_pruning():
    run = simulated_run(4)
    starts = {1 + int(stretch[0]) for stretch in steady_stretches(run, "masked")}
    assert set(prunings(run, "masked")[1:]) <= starts  # the first pruning comes before the first epoch
    covered = np.concatenate(steady_stretches(run, "masked"))
    assert covered.tolist() == list(range(covered[0], len(image_sides(run, "masked"))))


def test_too_short_a_training_has_no_noise_rather_than_none_at_all():
    noise = curve_noise(with_curve([0.9, 0.91]), "original")
    assert all(math.isnan(value) for triple in noise.values() for value in triple)


@given(CURVE, st.floats(-1, 1), st.floats(-5, 5), st.floats(0.1, 10))
@settings(deadline=None)
def test_noise_ignores_a_straight_course_and_scales_with_the_unit(values, slope, offset, factor):
    values = np.array(values)
    rough = np.array(roughness(values))
    assert rough[1] <= rough[0] <= rough[2]
    assert roughness(values + slope * np.arange(len(values)) + offset) == pytest.approx(rough, abs=1e-6)
    assert roughness(factor * values) == pytest.approx(factor * rough, abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(0.05, 0.9), st.floats(0.2, 1.0)), max_size=4),
    st.integers(1, 30),
    st.sampled_from((48, 64, 224)),
)
@settings(deadline=None, max_examples=60)
def test_image_sides_are_those_of_the_training(progression, epochs, size):
    run = with_curve(np.full(epochs, 0.9), progression, size)
    training = TrainSettings(epochs=epochs, progression=tuple(progression))
    assert image_sides(run, "original") == [training.side(epoch, size) for epoch in range(epochs)]


def test_a_run_is_read_as_it_was_written_and_a_missing_file_is_named(tmp_path):
    run = simulated_run(2, models=("original", "masked"), folder=tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert again.summary == run.summary and again.info == run.info and again.rounds.empty
    pd.testing.assert_frame_equal(again.predictions, run.predictions, rtol=1e-12)
    (tmp_path / "run/latency.csv").unlink()
    with pytest.raises(PneumopruneError, match="latency.csv is missing; run `pneumoprune lab"):
        load_run(tmp_path / "run")


def test_a_run_of_several_seeds_is_read_back_and_judged_over_them(tmp_path):
    run = simulated_run(5, models=("original", "slim"), seeds=4, external=True, folder=tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert [seed.info["seed"] for seed in again.seeds] == [1, 2, 3] and again.seeds[0].trained == ["original", "slim"]
    told = again.summary["seeds"]
    assert told["count"] == 4 and set(told["models"]) == {"original", "slim"} and set(told["comparisons"]) == {"slim"}
    for name, columns in seed_columns(run.predictions).items():
        for part, split in (("test", "test"), ("external", "external")):
            of, each = run.part(split), told["models"][name]["each"]
            found = [metrics(of["label"], of[c], cut)["auc"] for c, cut in zip(columns, each["threshold"])]
            assert each[part]["auc"] == pytest.approx(found)
            mean, low, high = told["models"][name][part]["auc"]
            assert mean == pytest.approx(np.mean(found)) and low < mean < high
    alone = again.summary["models"]["slim"]["test"]["auc"]
    assert alone[0] == told["models"]["slim"]["each"]["test"]["auc"][0]


def test_one_seed_claims_nothing_and_an_incomplete_one_does_not_count():
    predictions = simulated_run(6, models=("original", "slim"), seeds=2).predictions
    assert "seeds" not in summarise(predictions.drop(columns="original-seed-1"), resamples=10)
    two = summarise(predictions, resamples=10)["seeds"]
    assert two["models"]["slim"]["test"]["auc"][1:] == [0, 1]
    assert "fewer than 3 seeds" in two["comparisons"]["slim"]["warning"]
