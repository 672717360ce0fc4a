"""Evaluation: golden values by hand, properties of the resampling, faults, and the stopwatch."""

import gc
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pneumoprune import evaluation as ev
from pneumoprune.core import PneumopruneError

IMAGES = np.arange(5 * 16, dtype=np.uint8).reshape(5, 1, 4, 4)


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
        "auc": (6 + 5.5 + 5 + 1.5) / 24,  # pairs won by each ill image, ties half
        # thresholds 0.95, 0.85, 0.5, 0.15: precision at each step of the recall
        "average_precision": 1 / 4 * (1 / 1 + 2 / 3 + 3 / 4 + 4 / 9),
        "brier": sum(e**2 for e in (0.05, 0.15, 0.5, 0.85, 0.85, 0.45, 0.35, 0.25, 0.15, 0.05)) / 10,
        # bins of 1/15; only 0.85 (ill and well: gap 0.7) and 0.15 (the same) share one
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
    areas, ill_parts, well_parts = [], [], []
    for s in (a, b):
        psi = np.array([[(x > y) + (x == y) / 2 for y in s[labels == 0]] for x in s[labels == 1]])
        areas.append(psi.mean())
        ill_parts.append(psi.mean(1))
        well_parts.append(psi.mean(0))
    covariance = np.cov(ill_parts) / len(ill_parts[0]) + np.cov(well_parts) / len(well_parts[0])
    z = (areas[1] - areas[0]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    p = ev.compare(labels, a, b, np.arange(len(a)), resamples=10)["delong_p"]
    assert p == pytest.approx(2 * stats.norm.cdf(-abs(z)), rel=1e-9)
    assert 0.0001 < p < 0.9999


def test_thresholds_by_hand():
    assert ev.choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)  # the middle of the gap
    # cuts between 0.1 and 0.2 and between 0.3 and 0.9 are equally good: the wider gap
    assert ev.choose_threshold([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9]) == pytest.approx(0.6)
    assert ev.choose_threshold([0, 1, 0, 1], [0.1, 0.7, 0.8, 0.9]) == pytest.approx(0.4)
    # neighbouring numbers have no middle: the lower one still is not called
    upper = np.nextafter(0.5, 1)
    assert 0.5 < ev.choose_threshold([0, 1], [0.5, upper]) <= upper
    # what an illness in 1 of 4 costs: at 0.6 one of two ill is missed, at 0.2 one of two healthy alarmed
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
    ill, well = scores[labels == 1], scores[labels == 0]
    u = stats.mannwhitneyu(ill, well).statistic
    auc = u / (len(ill) * len(well))
    assert ev.metrics(labels, scores)["auc"] == pytest.approx(auc)
    assert ev.metrics(labels, scores**2 / 2)["auc"] == pytest.approx(auc)  # only the order counts


@settings(deadline=None, max_examples=100)
@given(readings(), st.sampled_from([0.2, 0.5, 0.8]))
def test_no_threshold_is_better_than_the_chosen_one(reading, prevalence):
    labels, scores, _ = reading
    chosen = ev.choose_threshold(labels, scores, prevalence=prevalence)

    def gain(t):
        called = scores >= t
        return prevalence * called[labels == 1].mean() + (1 - prevalence) * (~called[labels == 0]).mean()

    assert gain(chosen) == pytest.approx(max(gain(t) for t in np.arange(-1, 43) / 40))
    assert not np.isin(chosen, scores) or chosen in (0, 1)  # between scores, not on one
    # a hair's breadth changes no call: the point of the middle
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
    ill = weights @ labels
    assert ill.min() >= 1 and (weights.sum(1) - ill).min() >= 1
    result = ev.metrics_with_intervals(labels, [0.3, 0.1, 0.2, 0.4, 0.2], groups, 0.25)
    assert np.isfinite(list(result.values())).all()


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
    assert same["agreement"] == 1 and same["difference"]["accuracy"] == [0, 0, 0] and same["delong_p"] == 1


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
    for margins in ({"accuracy": 0}, {"accuracy": -0.1}, {"accuracy": float("nan")}, {"brier": 0.1}, {"speed": 1}):
        with pytest.raises(ev.EvaluationError, match="margin"):
            ev.noninferiority(comparison, margins=margins)


def test_warning_when_nothing_is_proved():
    scores = np.array([0.1, 0.4, 0.6, 0.9])
    assert ev.comparison_warning(scores, scores) is None
    assert "candidate calls every image pneumonia" in ev.comparison_warning(scores, scores / 2 + 0.5)
    assert "reference calls every image normal" in ev.comparison_warning(scores, scores, 0.95, 0.5)
    assert "the same score" in ev.comparison_warning(scores, np.full(4, 0.2))
    # the thresholds decide, not one half
    assert ev.comparison_warning(scores / 2, scores / 2, 0.25, 0.25) is None


# --- the stopwatch ---------------------------------------------------------------------------------------------------


def test_latency_takes_turns_and_counts_threads():
    made, seen = [], []

    def predictor(name):
        def make(threads):
            made.append((name, threads))

            def predict(images):
                assert not gc.isenabled() and images.dtype == np.uint8
                seen.append((name, len(images)))

            return predict

        return ev.Predictor(name, "none", make)

    # a turn of no length is one counted call, after one that does not count
    predictors = [predictor(n) for n in "xa"]
    frame = ev.latency(predictors, IMAGES, batches=(1, 7), threads=(1, 2), repeats=2, warmup=1, turn=0)
    assert made == [("x", 1), ("a", 1), ("x", 2), ("a", 2)]
    per_batch = [[("x", b), ("a", b)] + 2 * [("x", b), ("x", b), ("a", b), ("a", b)] for b in (1, 7)]
    assert seen == 2 * sum(per_batch, [])
    assert frame.columns.tolist() == ["model", "engine", "batch", "threads", "repeat", "milliseconds"]
    assert frame.model.tolist() == ["x", "a"] * 8
    assert frame.repeat.tolist() == [0, 0, 1, 1] * 4 and frame.threads.tolist() == [1] * 8 + [2] * 8
    assert (frame.milliseconds > 0).all() and gc.isenabled()


def test_latency_measures_time(monkeypatch):
    clock = [0]  # nanoseconds; a busy machine would make a real one unsteady
    monkeypatch.setattr(ev, "time", SimpleNamespace(perf_counter_ns=lambda: clock[0]))

    def worker(milliseconds):
        def predict(images):
            clock[0] += round(milliseconds * 1e6)

        return lambda threads: predict

    workers = [ev.Predictor("original", "pytorch", worker(8)), ev.Predictor("slim", "onnxruntime", worker(2.5))]
    frame = ev.latency(workers, IMAGES, batches=(2,), threads=(1,), repeats=5, warmup=2, turn=10)
    assert frame.milliseconds.tolist() == [8, 2.5] * 5
    # 2 calls to warm up, then per turn 1 that does not count and as many as fill 10 ms: 1 of 8 ms, 4 of 2.5 ms
    assert clock[0] == (2 * 8 + 2 * 2.5 + 5 * (2 * 8 + 5 * 2.5)) * 1e6
    assert ev.speedups(frame).speedup.tolist() == [1, 3.2]

    whole = ev.inference_seconds(workers, IMAGES, batch=2, repeats=2)
    assert whole.model.tolist() == ["original", "slim"] * 2 and whole.repeat.tolist() == [0, 0, 1, 1]
    assert whole.seconds.tolist() == pytest.approx([0.024, 0.0075] * 2)  # three batches of five images
    assert whole.milliseconds_per_image.tolist() == pytest.approx([4.8, 1.5] * 2)


def test_the_real_clock_runs():
    napper = ev.Predictor("napper", "sleep", lambda threads: lambda images: time.sleep(0.005))
    frame = ev.latency([napper], IMAGES, batches=(1,), threads=(1,), repeats=2, warmup=1)
    assert (frame.milliseconds >= 5).all()


def test_summary_by_hand():
    times = {"original": (10, 20, 30, 40, 50), "masked": (20, 40, 60, 80, 500), "slim": (1, 4, 3, 4, 5)}
    rows = [(model, "pytorch", 4, 1, i, ms) for model, all_ms in times.items() for i, ms in enumerate(all_ms)]
    frame = pd.DataFrame(rows, columns=["model", "engine", "batch", "threads", "repeat", "milliseconds"])
    summary = ev.latency_summary(frame).set_index("model")
    assert summary.index.tolist() == ["original", "masked", "slim"]  # as they came, not by the alphabet
    assert summary.loc["original", ["median", "q1", "q3", "repeats"]].tolist() == [30, 20, 40, 5]
    assert summary.images_per_second["original"] == pytest.approx(4 * 1000 / 30)
    ratio = ev.speedups(frame).set_index("model")
    assert ratio.speedup.tolist() == [1, 0.5, 10]  # the median of the ratios, not the ratio of the medians (30 / 4)
    assert ratio.q1["slim"] == 10 and ratio.q3["slim"] == 10 and ratio.q1["masked"] == 0.5
    with pytest.raises(ev.EvaluationError, match="choose the reference from"):
        ev.speedups(frame, ("original", "onnxruntime"))


def test_torch_predictor_does_the_whole_job_and_threads_are_restored():
    torch = pytest.importorskip("torch")
    from pneumoprune.alexnet import narrow_alexnet

    network = narrow_alexnet((4, 4, 4, 4, 4), (8, 8), planes=1).train()
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 64, 64), dtype=np.uint8)
    before = torch.get_num_threads()
    predictor = ev.torch_predictor("slim", network)
    with torch.inference_mode():
        expected = network.eval()(torch.as_tensor(images)).softmax(1)[:, 1].numpy()
    network.train()
    assert np.allclose(predictor.make(1)(images), expected)
    counts = []
    spy = ev.Predictor("spy", "torch", lambda threads: lambda x: counts.append(torch.get_num_threads()))
    frame = ev.latency([predictor, spy], images, batches=(2,), threads=(1, before + 1), repeats=1, turn=0)
    assert set(counts[: len(counts) // 2]) == {1} and set(counts[len(counts) // 2 :]) == {before + 1}
    assert torch.get_num_threads() == before and len(frame) == 4


def test_onnx_predictor(tmp_path):
    onnx = pytest.importorskip("onnx")
    h, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        h.make_node("Cast", ["image"], ["float"], to=kinds.FLOAT),
        h.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        h.make_node("Sigmoid", ["mean"], ["probability"]),
    ]
    graph = h.make_graph(
        nodes,
        "mean",
        [h.make_tensor_value_info("image", kinds.UINT8, ["n", 1, 4, 4])],
        [h.make_tensor_value_info("probability", kinds.FLOAT, ["n"])],
    )
    path = tmp_path / "mean.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    predictor = ev.onnx_predictor("slim", path)
    small = IMAGES % 3
    assert np.allclose(predictor.make(1)(small), 1 / (1 + np.exp(-small.mean((1, 2, 3)))))
    assert len(ev.latency([predictor], small, batches=(1, 4), repeats=2, turn=0)) == 4 * len({1, ev.all_threads()})
    with pytest.raises(ev.EvaluationError, match="missing.onnx is missing"):
        ev.onnx_predictor("slim", tmp_path / "missing.onnx").make(1)


def test_bad_timing_tasks():
    ok = ev.Predictor("a", "b", lambda threads: lambda x: None)
    for kwargs, message in (
        ({"predictors": []}, "at least one"),
        ({"predictors": [ok, ok]}, "of its own"),
        ({"images": IMAGES[0]}, "uint8"),
        ({"images": IMAGES / 255}, "float64"),
        ({"images": IMAGES[:0]}, "at least one image"),
        ({"repeats": 0}, "repeats is 0"),
        ({"warmup": 0}, "warmup is 0"),
        ({"batches": (1, 0)}, "batch is 0"),
        ({"threads": (0,)}, "threads is 0"),
    ):
        with pytest.raises(ev.EvaluationError, match=message):
            ev.latency(**({"predictors": [ok], "images": IMAGES} | kwargs))
    with pytest.raises(ev.EvaluationError, match="batch is 0"):
        ev.inference_seconds([ok], IMAGES, batch=0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no peak of finished processes")
def test_peak_memory_is_the_childs_own():
    ballast = np.ones(200 * 2**20, dtype=np.uint8)  # must not show
    bare = ev.peak_memory("pass")
    assert bare < 100 and ballast.all()
    assert ev.peak_memory("x = b'x' * (50 * 2**20)") - bare == pytest.approx(50, abs=5)
    assert ev.peak_memory([sys.executable, "-c", "import sys; assert sys.argv[1] == 'x y'", "x y"]) > 1
    for command, message in (
        ("raise SystemExit('no model')", "no model"),
        ("raise SystemExit(3)", "exit code 3"),
        (["no-such-program"], "no-such-program"),
    ):
        with pytest.raises(ev.EvaluationError, match=message):
            ev.peak_memory(command)
    start = time.monotonic()
    with pytest.raises(ev.EvaluationError, match="longer than 0.5 s"):
        ev.peak_memory("import time; time.sleep(60)", timeout=0.5)
    assert time.monotonic() - start < 30


def test_energy_reads_packages_only_and_mends_an_overflow(tmp_path):
    def write(zone, name, value):
        (tmp_path / zone).mkdir(exist_ok=True)
        (tmp_path / zone / name).write_text(f"{value}\n")

    for zone, start in (("intel-rapl:0", 2_000_000), ("intel-rapl:0:0", 0), ("intel-rapl:1", 7_000_000)):
        write(zone, "energy_uj", start)
        write(zone, "max_energy_range_uj", 8_000_000)

    def spend():
        write("intel-rapl:0", "energy_uj", 2_500_000)
        write("intel-rapl:0:0", "energy_uj", 400_000)  # part of the package
        write("intel-rapl:1", "energy_uj", 1_000_000)  # over the top

    assert ev.energy_joules(spend, powercap=tmp_path) == pytest.approx(0.5 + 2.0)
    called = []
    assert ev.energy_joules(lambda: called.append(1), powercap=tmp_path / "none") is None and not called


def test_scoring_does_not_wait_for_torch():
    code = "import sys, pneumoprune.evaluation as e; print({'torch', 'onnxruntime', 'fastcore'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
