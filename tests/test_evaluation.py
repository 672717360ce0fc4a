"""Evaluation: golden values by hand, properties of the resampling, faults."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pneumoprune import evaluation as ev
from pneumoprune.core import PneumopruneError


@st.composite
def readings(draw, most=40):
    "Labels with both classes, scores on a coarse grid (many ties), and patients"
    n = draw(st.integers(4, most))
    labels = np.array([0, 1] + draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2)))
    scores = np.array(draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))) / 20
    patients = np.array(draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n)))
    return labels, scores, patients


def reader(patients=200, each=3, seed=0, skill=1.5):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), each)
    labels = (rng.random(patients) < 0.6).astype(int)[who]
    scores = 1 / (1 + np.exp(-skill * (2 * labels - 1) - rng.normal(size=patients)[who] - rng.normal(size=len(who))))
    return labels, scores, who


# --- golden values, worked out by hand -------------------------------------------------------------------------------


def test_metrics_by_hand():
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    scores = [0.95, 0.85, 0.5, 0.15, 0.85, 0.45, 0.35, 0.25, 0.15, 0.05]
    m = ev.metrics(labels, scores, 0.5)  # TP 3, FN 1, FP 1, TN 5; a score at the threshold counts as pneumonia
    assert tuple(m) == ev.METRICS and all(type(v) is float for v in m.values())
    expected = {
        "accuracy": 8 / 10,
        "balanced_accuracy": (3 / 4 + 5 / 6) / 2,
        "sensitivity": 3 / 4,
        "specificity": 5 / 6,
        "precision": 3 / 4,
        "f1": 3 / 4,
        "auc": (6 + 5.5 + 5 + 1.5) / 24,  # pairs won by each positive, ties half
        # thresholds 0.95, 0.85, 0.5, 0.15: precision at each step of the recall
        "average_precision": 1 / 4 * (1 / 1 + 2 / 3 + 3 / 4 + 4 / 9),
        "brier": sum(e**2 for e in (0.05, 0.15, 0.5, 0.85, 0.85, 0.45, 0.35, 0.25, 0.15, 0.05)) / 10,
        # bins of 1/15; only 0.85 (positive and negative: gap 0.7) and 0.15 (the same) share one
        "ece": (0.05 + 2 * 0.35 + 0.5 + 0.45 + 0.35 + 0.25 + 2 * 0.35 + 0.05) / 10,
    }
    assert m == pytest.approx(expected, abs=1e-12)
    assert ev.confusion(labels, scores, 0.5).tolist() == [[5, 1], [1, 3]]


def test_mcnemar_by_hand():
    labels = np.array([1] * 20 + [0] * 5)
    a = np.concatenate([np.full(20, 0.9), np.full(5, 0.1)])
    b = a.copy()
    a[:2] = 0.2  # wrong where the candidate is right
    b[2:12] = 0.2  # the other way round, ten times
    result = ev.compare(labels, a, b, np.arange(25), resamples=50)
    assert result["mcnemar"] == pytest.approx(
        {"only_reference_right": 10, "only_candidate_right": 2, "p": 2 * (1 + 12 + 66) / 2**12}
    )
    assert result["agreement"] == 13 / 25
    assert result["difference"]["accuracy"][0] == pytest.approx(-8 / 25)


def test_delong_against_the_definition():
    labels, a, _ = reader(patients=60, each=1, seed=3)
    b = np.clip(a + np.random.default_rng(4).normal(0, 0.2, len(a)), 0, 1).round(1)
    a = a.round(1)  # ties
    areas, beaten, beating = [], [], []
    for s in (a, b):
        psi = np.array([[(x > y) + (x == y) / 2 for y in s[labels == 0]] for x in s[labels == 1]])
        areas.append(psi.mean())
        beaten.append(psi.mean(1))
        beating.append(psi.mean(0))
    covariance = np.cov(beaten) / len(beaten[0]) + np.cov(beating) / len(beating[0])
    z = (areas[1] - areas[0]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    p = ev.compare(labels, a, b, np.arange(len(a)), resamples=10)["delong_p"]
    assert p == pytest.approx(2 * stats.norm.cdf(-abs(z)), rel=1e-9)
    assert 0.0001 < p < 0.9999


def test_thresholds_by_hand():
    assert ev.choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)  # the middle of the gap
    # cuts between 0.1 and 0.2 and between 0.3 and 0.9 are equally good: the wider gap
    assert ev.choose_threshold([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9]) == pytest.approx(0.6)
    assert ev.choose_threshold([0, 1, 0, 1], [0.1, 0.7, 0.8, 0.9]) == pytest.approx(0.4)
    # neighbouring numbers have no middle: the lower one still is not predicted
    upper = np.nextafter(0.5, 1)
    assert 0.5 < ev.choose_threshold([0, 1], [0.5, upper]) <= upper
    # what a prevalence of 3 in 4 changes: at 0.6 one of two positives is missed, at 0.2 one of two negatives alarmed
    scores = [0.1, 0.5, 0.3, 0.7]
    assert ev.choose_threshold([0, 0, 1, 1], scores, prevalence=0.75) == pytest.approx(0.2)
    assert ev.choose_threshold([0, 0, 1, 1], scores, prevalence=0.25) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "interval, verdict",
    [
        ([-0.005, -0.0199, 0.01], "non-inferior"),
        ([-0.005, -0.02, 0.01], "inconclusive"),  # at the margin is not above it
        ([-0.03, -0.04, -0.0199], "inconclusive"),
        ([-0.03, -0.04, -0.0201], "inferior"),
        ([0.01, 0.001, 0.02], "superior"),
        ([0.0, 0.0, 0.0], "non-inferior"),
    ],
)
def test_verdicts(interval, verdict):
    comparison = {"difference": {"accuracy": interval, "auc": [0.0, -0.001, 0.001]}, "warning": None}
    result = ev.noninferiority(comparison)
    assert result["accuracy"]["verdict"] == verdict and result["auc"]["verdict"] == "non-inferior"
    assert result["noninferior"] is (verdict in ("non-inferior", "superior"))
    warned = ev.noninferiority(comparison | {"warning": "all the same"})
    assert not warned["noninferior"]
    assert warned["accuracy"]["verdict"] == (verdict if verdict in ("inferior", "inconclusive") else "uninformative")


def test_calibration_curve_by_hand():
    curve = ev.calibration_curve([0, 1, 1, 1], [0.01, 0.05, 0.95, 1.0])
    assert curve.columns.tolist() == ["lower", "upper", "images", "score", "share", "low", "high"]
    assert curve.lower.tolist() == [0, 14 / 15] and curve.upper.tolist() == [1 / 15, 1]
    assert curve.images.tolist() == [2, 2] and curve.share.tolist() == [0.5, 1.0]
    assert curve.score.tolist() == pytest.approx([0.03, 0.975])
    z2 = stats.norm.ppf(0.975) ** 2  # Wilson's lower end for 2 of 2 is n / (n + z²)
    assert curve.low[1] == pytest.approx(2 / (2 + z2)) and curve.high[1] == pytest.approx(1)


# --- properties ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(readings(), st.integers(0, 20), st.integers(0, 10**6))
def test_weights_are_repeated_images(reading, cut, seed):
    labels, scores, patients = reading
    groups = np.unique(patients, return_inverse=True)[1]
    # a patient may own everything: then every draw is the whole set
    weights = next(ev._resampled_weights(labels, groups, 3, seed))
    values = ev._weighted_metrics(weights, labels, scores, cut / 20)
    for row, value in zip(weights.astype(int), values):
        drawn = np.repeat(np.arange(len(labels)), row)
        expected = list(ev.metrics(labels[drawn], scores[drawn], cut / 20).values())
        assert value == pytest.approx(np.array(expected), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(readings())
def test_auc_is_the_rank_statistic(reading):
    labels, scores, _ = reading
    positive, negative = scores[labels == 1], scores[labels == 0]
    u = stats.mannwhitneyu(positive, negative).statistic
    auc = u / (len(positive) * len(negative))
    assert ev.metrics(labels, scores)["auc"] == pytest.approx(auc)
    assert ev.metrics(labels, scores**2 / 2)["auc"] == pytest.approx(auc)  # only the order counts


@settings(deadline=None, max_examples=100)
@given(readings(), st.sampled_from([0.2, 0.5, 0.8]))
def test_no_threshold_is_better_than_the_chosen_one(reading, prevalence):
    labels, scores, _ = reading
    chosen = ev.choose_threshold(labels, scores, prevalence=prevalence)

    def gain(t):
        predicted = scores >= t
        return prevalence * predicted[labels == 1].mean() + (1 - prevalence) * (~predicted[labels == 0]).mean()

    assert gain(chosen) == pytest.approx(max(gain(t) for t in np.arange(-1, 43) / 40))
    assert not np.isin(chosen, scores) or chosen in (0, 1)  # between scores, not on one
    # a hair's breadth changes no prediction: the point of the middle
    assert gain(chosen + 0.02) == gain(chosen - 0.02) == gain(chosen) or chosen < 0.03 or chosen > 0.97


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    labels, _, who = reader(patients=30, each=4)
    blocks = list(ev._resampled_weights(labels, who, 600, seed=2))
    weights = np.concatenate(blocks)
    assert weights.shape == (600, 120) and max(len(b) for b in blocks) <= 256
    by_patient = weights.reshape(600, 30, 4)
    assert (by_patient == by_patient[:, :, :1]).all()
    assert (by_patient[:, :, 0].sum(1) == 30).all()
    # drawn with replacement: a share of 1/e of the patients is missing
    assert (by_patient[:, :, 0] == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)
    assert np.array_equal(weights[:300], np.concatenate(list(ev._resampled_weights(labels, who, 300, seed=2))))


def test_one_class_resamples_are_drawn_again():
    labels, groups = np.array([1, 0, 0, 0, 0]), np.arange(5)
    weights = np.concatenate(list(ev._resampled_weights(labels, groups, 2000, seed=0)))
    assert len(weights) == 2000
    positive = weights @ labels
    assert positive.min() >= 1 and (weights.sum(1) - positive).min() >= 1
    result = ev.metrics_with_intervals(labels, [0.3, 0.1, 0.2, 0.4, 0.2], groups, 0.25)
    assert np.isfinite(list(result.values())).all()


# --- certainty from nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positive, negative", [(1, 1), (1, 40), (40, 1), (5, 5), (5, 6)])
def test_from_few_patients_of_a_class_nothing_is_known(positive, negative):
    labels = np.repeat([1, 0], [3 * positive, 3 * negative])
    who = np.repeat(np.arange(positive + negative), 3)
    scores = np.random.default_rng(0).random(len(labels))
    intervals = ev.metrics_with_intervals(labels, scores, who, resamples=20)
    assert all(interval[1:] == [0, 1] for interval in intervals.values())
    comparison = ev.compare(labels, scores, scores, who, resamples=20)
    assert all(interval == [0, -1, 1] for interval in comparison["difference"].values())
    assert f"fewer than 6 patients ({min(positive, negative)})" in comparison["warning"]
    verdict = ev.noninferiority(comparison, margins={"auc": 0.5})
    assert verdict["auc"]["verdict"] == "inconclusive" and not verdict["noninferior"]


def test_all_images_of_one_patient():
    labels, scores = np.array([0, 1] * 50), np.array([0.1, 0.9] * 50)
    assert ev.metrics_with_intervals(labels, scores, ["ann"] * 100, resamples=5)["auc"] == [1, 0, 1]


@pytest.mark.parametrize("patients", [6, 50, 400])
def test_a_network_that_is_always_right_may_err_on_others(patients):
    labels = np.repeat([0, 1], patients)
    intervals = ev.metrics_with_intervals(labels, labels.astype(float), np.arange(2 * patients), resamples=20)
    exact = stats.binomtest(patients, patients).proportion_ci(method="exact").low  # Clopper and Pearson (1934)
    for name in ("sensitivity", "specificity", "accuracy", "auc"):
        assert intervals[name] == pytest.approx([1, exact, 1])
    for name in ("brier", "ece"):
        assert intervals[name] == pytest.approx([0, 0, 1 - exact])


def test_equal_networks_are_not_inferior_once_there_are_patients_enough():
    def verdict(patients, margin):
        labels, scores, who = reader(patients=patients, each=1)
        fewest = min(np.bincount(labels))
        return fewest, ev.noninferiority(ev.compare(labels, scores, scores, who, resamples=5), margins={"auc": margin})

    fewest, few = verdict(30, 0.02)
    assert few["auc"]["verdict"] == "inconclusive" and few["auc"]["low"] == pytest.approx(0.025 ** (1 / fewest) - 1)
    assert verdict(600, 0.02)[1]["auc"]["verdict"] == "non-inferior"


def test_intervals_that_vary_are_left_alone():
    low, high = np.full(10, 0.3), np.full(10, 0.4)
    for patients in (6, 600):
        assert [x.tolist() for x in ev._widened(low, high, patients, 0)] == [low.tolist(), high.tolist()]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, "", "nan", "None", "<NA>"])
def test_a_missing_patient_is_refused_not_merged(missing):
    labels, scores, who = reader(patients=20, each=1)
    who = [f"p{i}" for i in who]
    who[3] = who[7] = missing
    for patients in (who, pd.Series(who, dtype=object), np.array(who, dtype=object)):
        with pytest.raises(ev.EvaluationError, match="2 of 20 images have no patient"):
            ev.metrics_with_intervals(labels, scores, patients)
        with pytest.raises(ev.EvaluationError, match="2 of 20 images have no patient"):
            ev.compare(labels, scores, scores, patients)


def test_missing_numbers_of_patients_are_refused():
    labels, scores, who = reader(patients=20, each=1)
    for patients in (np.where(who == 3, np.nan, who), pd.array(who).astype("Int64")):
        patients[3] = np.nan if isinstance(patients, np.ndarray) else pd.NA
        with pytest.raises(ev.EvaluationError, match="1 of 20 images have no patient"):
            ev.metrics_with_intervals(labels, scores, patients)


@pytest.mark.parametrize("wrong", [37.5, -0.001, 1.001, np.nan, np.inf, -np.inf, None, "high"])
def test_thresholds_and_prevalences_are_shares(wrong):
    labels, scores, who = reader(patients=20)
    calls = (
        lambda: ev.metrics(labels, scores, wrong),
        lambda: ev.confusion(labels, scores, wrong),
        lambda: ev.metrics_with_intervals(labels, scores, who, wrong),
        lambda: ev.compare(labels, scores, scores, who, wrong, 0.5),
        lambda: ev.compare(labels, scores, scores, who, 0.5, wrong),
        lambda: ev.choose_threshold(labels, scores, prevalence=wrong),
    )
    for call in calls:
        with pytest.raises(ev.EvaluationError, match="give a share in 0..1"):
            call()


def test_every_chosen_threshold_can_be_used():
    threshold = ev.choose_threshold([1, 0], [0.5, 1.0], prevalence=0)  # nothing is positive, not even a score of 1
    assert threshold > 1 and ev.metrics([1, 0], [0.5, 1.0], threshold)["specificity"] == 1
    for ends in (0, 1, 0.0, np.float32(0.5)):
        assert ev.confusion([1, 0], [0.5, 1.0], ends).sum() == 2


def test_interval_has_the_textbook_width():
    # one image per patient: the accuracy's standard error is known
    labels, scores, _ = reader(patients=2500, each=1, skill=1)
    value, low, high = ev.metrics_with_intervals(labels, scores, np.arange(2500))["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (value * (1 - value) / 2500) ** 0.5, rel=0.1)
    # four copies of each image are no new information
    copies = ev.metrics_with_intervals(*(np.repeat(x, 4) for x in (labels, scores, np.arange(2500))))["accuracy"]
    assert copies == pytest.approx([value, low, high], abs=1e-12)


def test_order_of_images_and_names_of_patients_do_not_matter():
    labels, scores, who = reader()
    mixed = np.random.default_rng(0).permutation(len(labels))
    first = ev.metrics_with_intervals(labels, scores, who, resamples=300)
    names = np.array([f"patient {i:04d}" for i in who])
    second = ev.metrics_with_intervals(labels[mixed], scores[mixed], names[mixed], resamples=300)
    for name in ev.METRICS:
        assert first[name] == pytest.approx(second[name], abs=1e-12)
    assert first == ev.metrics_with_intervals(labels, scores, who, resamples=300)
    assert first != ev.metrics_with_intervals(labels, scores, who, resamples=300, seed=1)


def test_pairing_narrows_and_roles_reverse():
    labels, a, who = reader()
    b = np.clip(a + np.random.default_rng(1).normal(0, 0.03, len(a)), 0, 1)
    forth, back = ev.compare(labels, a, b, who), ev.compare(labels, b, a, who)
    alone = ev.metrics_with_intervals(labels, a, who)
    for name in ev.METRICS:
        value, low, high = forth["difference"][name]
        assert [value, low, high] == pytest.approx([-back["difference"][name][i] for i in (0, 2, 1)], abs=1e-12)
        assert value == pytest.approx(ev.metrics(labels, b)[name] - ev.metrics(labels, a)[name])
        if name != "ece":
            assert high - low < alone[name][2] - alone[name][1]
    assert forth["mcnemar"]["p"] == back["mcnemar"]["p"]
    assert json.loads(json.dumps(forth, allow_nan=False)) == forth
    assert json.loads(json.dumps(ev.noninferiority(forth), allow_nan=False))


def test_thresholds_are_applied_to_their_own_model():
    labels, a, who = reader()
    same = ev.compare(labels, a, a / 2, who, 0.5, 0.25, resamples=50)
    assert same["agreement"] == 1 and same["difference"]["accuracy"][0] == 0 and same["delong_p"] == 1


def test_two_thousand_resamples_are_quick():
    labels, scores, who = reader(patients=208)  # 624 images
    start = time.process_time()  # of this process, whatever else runs beside it
    ev.metrics_with_intervals(labels, scores, who, resamples=2000)
    assert time.process_time() - start < 3


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, scores, message",
    [
        ([], [], "not empty"),
        ([0, 1], [0.5], "same length"),
        ([[0, 1]], [[0.1, 0.2]], "same length"),
        ([0, 2], [0.1, 0.2], "give 0 .normal. and 1"),
        ([0, 1], [0.1, 1.2], "probability"),
        ([0, 1], [0.1, np.nan], "probability"),
        ([1, 1], [0.1, 0.2], "all 2 labels are of class 1"),
        ([0, 0], [0.1, 0.2], "all 2 labels are of class 0"),
    ],
)
def test_bad_labels_and_scores(labels, scores, message):
    calls = (
        ev.metrics,
        ev.confusion,
        ev.choose_threshold,
        ev.calibration_curve,
        lambda y, s: ev.metrics_with_intervals(y, s, np.arange(len(y))),
        lambda y, s: ev.compare(y, s, s, np.arange(len(y))),
    )
    for call in calls:
        with pytest.raises(PneumopruneError, match=message):
            call(labels, scores)


def test_bad_patients_margins_and_counts():
    labels, scores, who = reader(patients=10)
    with pytest.raises(ev.EvaluationError, match="one patient per image"):
        ev.metrics_with_intervals(labels, scores, who[:-1])
    with pytest.raises(ev.EvaluationError, match="resamples is 0"):
        ev.compare(labels, scores, scores, who, resamples=0)
    comparison = ev.compare(labels, scores, scores, who, resamples=10)
    for margin in (0, -0.1, float("nan"), float("inf"), 2, 1, "much", None):
        with pytest.raises(ev.EvaluationError, match="the margin of accuracy"):
            ev.noninferiority(comparison, margins={"accuracy": margin})
    for margins in ({"brier": 0.1}, {"speed": 1}, {}):
        with pytest.raises(ev.EvaluationError, match="margin"):
            ev.noninferiority(comparison, margins=margins)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, float("nan"), float("inf"), "many", None])
def test_draws_and_seeds_are_whole_numbers(wrong):
    labels, scores, who = reader(patients=10)
    for call in (lambda **how: ev.metrics_with_intervals(labels, scores, who, **how),
                 lambda **how: ev.compare(labels, scores, scores, who, **how)):
        with pytest.raises(ev.EvaluationError, match="resamples is .*; give a whole number, at least 1"):
            call(resamples=wrong)
        if wrong != 0:
            with pytest.raises(ev.EvaluationError, match="the seed is .*; give a whole number, at least 0"):
                call(resamples=2, seed=wrong)


@pytest.mark.parametrize("patients", [[1, "1", 2, "2"], ["a", 1, "b", 2.5]])
def test_names_and_numbers_are_different_patients(patients):
    assert len(set(ev._groups(patients, 4))) == 4


def test_patients_that_are_no_names_are_refused():
    ragged, dicts, columns = [["a"], "b", "c", "d"], [{"a": 1}] * 4, [["a"], ["b"], ["c"], ["d"]]
    for patients in (ragged, [("a", 1), "b", "c", "d"], dicts, columns, "abcd", None):
        with pytest.raises(ev.EvaluationError, match="one (patient|name or number) per image"):
            ev.metrics_with_intervals([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], patients)


def test_warning_when_nothing_is_proved():
    labels, scores = np.array([0, 1, 0, 1] * 3), np.array([0.1, 0.4, 0.6, 0.9] * 3)

    def warning(*models_and_thresholds):
        reference, candidate, *thresholds = models_and_thresholds
        return ev.compare(labels, reference, candidate, np.arange(12), *thresholds, resamples=2)["warning"]

    assert warning(scores, scores) is None
    assert "candidate predicts pneumonia for every image" in warning(scores, scores / 2 + 0.5)
    assert "reference predicts normal for every image" in warning(scores, scores, 0.95, 0.5)
    assert "candidate gives every image the same score" in warning(scores, np.full(12, 0.2))
    both = warning(scores / 2, np.full(12, 0.2))
    assert both.startswith("This comparison proves nothing: the reference predicts normal")
    assert " and the candidate" in both
    # the thresholds decide, not one half
    assert warning(scores / 2, scores / 2, 0.25, 0.25) is None


def test_scoring_does_not_wait_for_torch():
    code = "import sys, pneumoprune.evaluation as e; print({'torch', 'onnxruntime', 'fastcore'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- pairs, and many trainings ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(readings(most=20), st.lists(st.integers(0, 5), min_size=20, max_size=20), st.integers(0, 10**6))
def test_misled_and_within_auc_by_the_definition(reading, others, seed):
    labels, scores, _ = reading
    other = np.array(others[: len(labels)])
    won = lambda counts: [(a > b) + (a == b) / 2 for i, a in enumerate(scores) for j, b in enumerate(scores)
                          if labels[i] > labels[j] and counts(other[i], other[j])]  # fmt: skip
    for function, counts in ((ev.misled_auc, lambda p, n: p < n), (ev.within_auc, lambda p, n: p == n)):
        if pairs := won(counts):
            assert function(labels, scores, other) == pytest.approx(np.mean(pairs))
        else:
            with pytest.raises(ev.EvaluationError):
                function(labels, scores, other)


def test_blocks_of_pairs_do_not_matter(monkeypatch):
    labels, scores, who = reader(patients=80)
    other = np.random.default_rng(0).random(len(labels))
    whole = ev.misled_auc_with_interval(labels, scores, other, who, resamples=50)
    monkeypatch.setattr(ev, "_PAIRS", 100)
    monkeypatch.setattr(ev, "_BLOCK", 7 * len(labels))
    assert ev.misled_auc_with_interval(labels, scores, other, who, resamples=50) == pytest.approx(whole, abs=1e-9)


def test_draws_do_not_depend_on_the_size_of_a_block(monkeypatch):
    labels, scores, who = reader(patients=40)
    whole = ev.metrics_with_intervals(labels, scores, who, resamples=60)
    monkeypatch.setattr(ev, "_BLOCK", 7 * len(labels))
    again = ev.metrics_with_intervals(labels, scores, who, resamples=60)
    assert all(again[name] == pytest.approx(whole[name], abs=1e-12) for name in ev.METRICS)


def test_networks_judged_together_have_the_intervals_of_networks_judged_alone():
    labels, a, who = reader(seed=1)
    b = np.clip(a + np.random.default_rng(2).normal(0, 0.1, len(a)), 0, 1)
    judged = ev.evaluate(labels, {"a": (a, 0.4), "b": (b, 0.6)}, who, resamples=100)
    assert ev.model_intervals(judged, "b") == ev.metrics_with_intervals(labels, b, who, 0.6, resamples=100)
    assert ev.model_comparison(judged, "a", "b") == ev.compare(labels, a, b, who, 0.4, 0.6, resamples=100)


def true_measures(skill, spread):
    "AUC and accuracy of `simulated_trainings`, over all trainings and patients there could be"
    skills = np.random.default_rng(0).normal(skill, spread, 20_001)
    return np.array([stats.norm.cdf(skills / 2**0.5).mean(), stats.norm.cdf(skills / 2).mean()])


def simulated_trainings(rng, seeds, spread, skills, patients=200):
    "Trainings of several networks, `spread` between seeds; one image of each patient, its difficulty half shared"
    labels = np.r_[0, 1, rng.integers(0, 2, patients - 2)]
    shared, half = rng.normal(0, 0.5**0.5, patients), 0.5**0.5
    logits = {
        f"{name}{k}": (2 * labels - 1) * rng.normal(skill, spread) / 2 + shared + rng.normal(0, half, patients)
        for name, skill in skills.items() for k in range(seeds)
    }
    return labels, {name: (1 / (1 + np.exp(-values)), 0.5) for name, values in logits.items()}


@pytest.mark.hard
@pytest.mark.parametrize("spread", [0, 0.2, 0.6])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_seeds_and_patients_hold_the_truth_as_often_as_they_promise(seeds, spread):
    "And a candidate that is worse by the whole margin is called non-inferior in no more than 2.5 % of all cases"
    skills, names = {"a": 2.2, "b": 2.05}, [[f"{name}{k}" for k in range(seeds)] for name in "ab"]
    truths = {name: true_measures(skill, spread) for name, skill in skills.items()}
    margins = dict(zip(("auc", "accuracy"), truths["a"] - truths["b"]))
    rng, trials = np.random.default_rng([seeds, round(10 * spread)]), 300
    inside, wrongly = np.zeros((2, 2)), np.zeros(2)  # (alone, compared) by measure; by measure
    for trial in range(trials):
        labels, models = simulated_trainings(rng, seeds, spread, skills)
        judged = ev.evaluate(labels, models, np.arange(len(labels)), resamples=300, seed=trial)
        alone = ev.seed_intervals(judged, names[0], seed=trial)
        compared = ev.seed_comparison(judged, *names, seed=trial)
        for i, measure in enumerate(margins):
            for row, found, truth in (
                (0, alone, truths["a"][i]), (1, compared["difference"], truths["b"][i] - truths["a"][i])
            ):
                inside[row, i] += found[measure][1] <= truth <= found[measure][2]
            verdict = ev.noninferiority(compared, margins=margins)[measure]["verdict"]
            wrongly[i] += verdict in ("superior", "non-inferior")
    print(seeds, spread, inside / trials, wrongly / trials)
    assert (inside >= stats.binom.ppf(0.01, trials, 0.95)).all()
    assert (wrongly <= stats.binom.ppf(0.99, trials, 0.025)).all()


def test_an_interval_over_seeds_is_wider_than_one_over_patients_where_seeds_differ():
    labels, base, who = reader(seed=3)
    logits = np.log(base / (1 - base))
    seeds = {str(k): (1 / (1 + np.exp(-logits - d * (2 * labels - 1))), 0.5) for k, d in enumerate((-1, 0.2, 1, -0.4))}
    judged = ev.evaluate(labels, seeds, who, resamples=200)
    width = lambda interval: interval[2] - interval[1]
    assert width(ev.seed_intervals(judged, list(seeds))["auc"]) > 1.5 * width(ev.model_intervals(judged, "1")["auc"])
    same = ev.seed_intervals(judged, ["1", "1", "1"])
    assert same["auc"] == pytest.approx(ev.model_intervals(judged, "1")["auc"], abs=1e-9)
