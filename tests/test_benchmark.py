"""The stopwatch: the order of the turns, what they measure, what is given back; memory of a fresh process."""

import gc
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pneumoprune import benchmark as bm
from pneumoprune.core import PneumopruneError

IMAGES = np.arange(5 * 16, dtype=np.uint8).reshape(5, 1, 4, 4)


def test_latency_takes_turns_and_counts_threads():
    made, seen = [], []

    def predictor(name):
        def make(threads):
            made.append((name, threads))

            def predict(images):
                assert not gc.isenabled() and images.dtype == np.uint8
                seen.append((name, len(images)))

            return predict

        return bm.Predictor(name, "none", make)

    # a turn of no length is one counted call, after one that does not count
    predictors = [predictor(n) for n in "xa"]
    frame = bm.latency(predictors, IMAGES, batches=(1, 7), threads=(1, 2), repeats=2, warmup=1, turn=0)
    assert made == [("x", 1), ("a", 1), ("x", 2), ("a", 2)]
    per_batch = [[("x", b), ("a", b)] + 2 * [("x", b), ("x", b), ("a", b), ("a", b)] for b in (1, 7)]
    assert seen == 2 * sum(per_batch, [])
    assert frame.columns.tolist() == ["model", "engine", "batch", "threads", "repeat", "milliseconds"]
    assert frame.model.tolist() == ["x", "a"] * 8
    assert frame.repeat.tolist() == [0, 0, 1, 1] * 4 and frame.threads.tolist() == [1] * 8 + [2] * 8
    assert (frame.milliseconds > 0).all() and gc.isenabled()


def test_latency_measures_time(monkeypatch):
    clock = [0]  # nanoseconds; a busy machine would make a real one unsteady
    monkeypatch.setattr(bm, "time", SimpleNamespace(perf_counter_ns=lambda: clock[0]))

    def worker(milliseconds):
        def predict(images):
            clock[0] += round(milliseconds * 1e6)

        return lambda threads: predict

    workers = [bm.Predictor("original", "pytorch", worker(8)), bm.Predictor("slim", "onnxruntime", worker(2.5))]
    frame = bm.latency(workers, IMAGES, batches=(2,), threads=(1,), repeats=5, warmup=2, turn=10)
    assert frame.milliseconds.tolist() == [8, 2.5] * 5
    # 2 calls to warm up, then per turn 1 that does not count and as many as fill 10 ms: 1 of 8 ms, 4 of 2.5 ms
    assert clock[0] == (2 * 8 + 2 * 2.5 + 5 * (2 * 8 + 5 * 2.5)) * 1e6
    assert bm.speedups(frame).speedup.tolist() == [1, 3.2]

    whole = bm.inference_seconds(workers, IMAGES, batch=2, repeats=2)
    assert whole.model.tolist() == ["original", "slim"] * 2 and whole.repeat.tolist() == [0, 0, 1, 1]
    assert whole.seconds.tolist() == pytest.approx([0.024, 0.0075] * 2)  # three batches of five images
    assert whole.milliseconds_per_image.tolist() == pytest.approx([4.8, 1.5] * 2)


def test_the_real_clock_runs():
    napper = bm.Predictor("napper", "sleep", lambda threads: lambda images: time.sleep(0.005))
    frame = bm.latency([napper], IMAGES, batches=(1,), threads=(1,), repeats=2, warmup=1)
    assert (frame.milliseconds >= 5).all()


def test_summary_by_hand():
    times = {"original": (10, 20, 30, 40, 50), "masked": (20, 40, 60, 80, 500), "slim": (1, 4, 3, 4, 5)}
    rows = [(model, "pytorch", 4, 1, i, ms) for model, all_ms in times.items() for i, ms in enumerate(all_ms)]
    frame = pd.DataFrame(rows, columns=["model", "engine", "batch", "threads", "repeat", "milliseconds"])
    summary = bm.latency_summary(frame).set_index("model")
    assert summary.index.tolist() == ["original", "masked", "slim"]  # as they came, not by the alphabet
    assert summary.loc["original", ["median", "q1", "q3", "repeats"]].tolist() == [30, 20, 40, 5]
    assert summary.images_per_second["original"] == pytest.approx(4 * 1000 / 30)
    ratio = bm.speedups(frame).set_index("model")
    assert ratio.speedup.tolist() == [1, 0.5, 10]  # the median of the ratios, not the ratio of the medians (30 / 4)
    assert ratio.q1["slim"] == 10 and ratio.q3["slim"] == 10 and ratio.q1["masked"] == 0.5
    with pytest.raises(bm.BenchmarkError, match="choose the reference from"):
        bm.speedups(frame, ("original", "onnxruntime"))


def test_torch_predictor_does_the_whole_job_and_threads_are_restored():
    torch = pytest.importorskip("torch")
    from pneumoprune.alexnet import narrow_alexnet

    network = narrow_alexnet((4, 4, 4, 4, 4), (8, 8), planes=1).train()
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 64, 64), dtype=np.uint8)
    before = torch.get_num_threads()
    predictor = bm.torch_predictor("slim", network)
    with torch.inference_mode():
        expected = network.eval()(torch.as_tensor(images)).softmax(1)[:, 1].numpy()
    network.train()
    assert np.allclose(predictor.make(1)(images), expected)
    counts = []
    spy = bm.Predictor("spy", "torch", lambda threads: lambda x: counts.append(torch.get_num_threads()))
    frame = bm.latency([predictor, spy], images, batches=(2,), threads=(1, before + 1), repeats=1, turn=0)
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
    predictor = bm.onnx_predictor("slim", path)
    small = IMAGES % 3
    assert np.allclose(predictor.make(1)(small), 1 / (1 + np.exp(-small.mean((1, 2, 3)))))
    assert len(bm.latency([predictor], small, batches=(1, 4), repeats=2, turn=0)) == 4 * len({1, bm._all_threads()})
    with pytest.raises(PneumopruneError, match="missing.onnx is missing"):
        bm.onnx_predictor("slim", tmp_path / "missing.onnx").make(1)


def test_bad_timing_tasks():
    ok = bm.Predictor("a", "b", lambda threads: lambda x: None)
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
        with pytest.raises(bm.BenchmarkError, match=message):
            bm.latency(**({"predictors": [ok], "images": IMAGES} | kwargs))
    with pytest.raises(bm.BenchmarkError, match="batch is 0"):
        bm.inference_seconds([ok], IMAGES, batch=0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no peak of finished processes")
def test_peak_memory_is_the_childs_own():
    ballast = np.ones(200 * 2**20, dtype=np.uint8)  # must not show
    bare = bm.peak_memory("pass")
    assert bare < 100 and ballast.all()
    assert bm.peak_memory("x = b'x' * (50 * 2**20)") - bare == pytest.approx(50, abs=5)
    assert bm.peak_memory([sys.executable, "-c", "import sys; assert sys.argv[1] == 'x y'", "x y"]) > 1
    for command, message in (
        ("raise SystemExit('no model')", "no model"),
        ("raise SystemExit(3)", "exit code 3"),
        (["no-such-program"], "no-such-program"),
    ):
        with pytest.raises(bm.BenchmarkError, match=message):
            bm.peak_memory(command)
    start = time.monotonic()
    with pytest.raises(bm.BenchmarkError, match="longer than 0.5 s"):
        bm.peak_memory("import time; time.sleep(60)", timeout=0.5)
    assert time.monotonic() - start < 30


def test_the_stopwatch_does_not_wait_for_what_it_times():
    code = "import sys, pneumoprune.benchmark; print({'torch', 'onnxruntime', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
