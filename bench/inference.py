"""One network in every engine there is: milliseconds of a call, and how far that is from what the machine can do

    python bench/inference.py

`slim-int8` is the file that the package ships, guard included. `original` is AlexNet of the same input, with random
weights: its time does not depend on them. All take bytes and give a probability, standardisation included. OpenVINO
takes part if it is installed (`pip install openvino==2026.4.1`). A limit is the network's multiply-accumulates over the
machine's own peak: the largest rate among products of matrices and a convolution, in ONNX Runtime, on one thread.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import Row, row, run
from onnx import numpy_helper, parser

from pneumoprune.alexnet import alexnet, narrow_alexnet
from pneumoprune.benchmark import Predictor, in_turns, latency, onnx_predictor, torch_predictor
from pneumoprune.core import open_onnx
from pneumoprune.quantization import _quantize, export_onnx
from pneumoprune.synthetic import phantoms

SHIPPED = Path(__file__).parent.parent / "pneumoprune/models/slim-int8.onnx"
GOALS = {("pytorch", 1): 200, ("onnxruntime", 1): 160, ("pytorch", 32): 90}  # times as fast as `original` there
TRIED = (
    "the time of slim-int8 is spent as told of one image on one thread; tried and not kept: the first convolution in "
    "INT8 too (it has a row), the sum of squares as one operation (no faster), the variance as a product, scaling "
    "after the pooling (both slower)"
)
HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


def openvino_predictor(name: str, path: Path, precision: str = "f32") -> Predictor:
    "An ONNX file, run by OpenVINO; by itself it takes bf16 where the processor multiplies that"
    def make(threads: int) -> Callable[[np.ndarray], object]:
        import openvino

        core = openvino.Core()
        model = core.compile_model(core.read_model(path), "CPU", {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision,
        })  # fmt: skip
        return lambda images: model({0: images})[0]

    return Predictor(name, "openvino" if precision == "f32" else f"openvino in {precision}", make)


def has_openvino() -> bool:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def contenders(folder: Path) -> list[Predictor]:
    "`original` in every engine, and the shipped network"
    model = alexnet(seed=0).eval()
    export_onnx(model, folder / "original.onnx", size=224)
    compiled: Any = torch.compile(model, dynamic=False)
    found = [
        torch_predictor("original", model), torch_predictor("original", compiled, engine="torch.compile"),
        onnx_predictor("original", folder / "original.onnx"), onnx_predictor("slim-int8", SHIPPED),
    ]  # fmt: skip
    if has_openvino():
        whole = folder / "original.onnx"
        found += [openvino_predictor("original", whole, precision) for precision in ("f32", "bf16")]
        found.append(openvino_predictor("slim-int8", SHIPPED))
    return found


# --- the machine's peak


def graph(text: str, **constants: np.ndarray) -> bytes:
    "A graph as a file's content"
    model = parser.parse_model(f"{HEADER}\n{text}")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    return model.SerializeToString()


def peaks(folder: Path) -> dict[str, float]:
    "Largest multiply-accumulates per second on one thread, in float32 and in INT8, of products and a convolution"
    rng, n = np.random.default_rng(0), 1024
    wide = "agraph (float[1024, 1024] x) => (float[1024, 1024] y) { y = MatMul (x, w) }"
    bytes_wide = "agraph (uint8[1024, 1024] x) => (int32[1024, 1024] y) { y = MatMulInteger (x, w) }"
    conv = "agraph (float[1, 128, 56, 56] x) => (float[1, 128, 56, 56] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    floats = lambda *shape: rng.normal(size=shape).astype(np.float32)
    signed = lambda *shape: rng.integers(-64, 64, shape, dtype=np.int8)
    unsigned = lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)
    cases = {
        ("float32", n**3): (wide, floats(n, n), floats(n, n)),
        ("int8", n**3): (bytes_wide, signed(n, n), unsigned(n, n)),
        ("float32", 128 * 128 * 9 * 56 * 56): (conv, floats(128, 128, 3, 3), floats(1, 128, 56, 56)),
    }
    best: dict[str, float] = {}
    for (kind, macs), (text, weight, x) in cases.items():
        path = folder / "peak.onnx"
        path.write_bytes(graph(text, w=weight))
        session = open_onnx(path, threads=1)
        seconds = in_turns({"": lambda s=session, x=x: s.run(None, {"x": x})}, repeats=9)[""].min() / 1000
        best[kind] = max(best.get(kind, 0), macs / seconds)
    return best


def macs_of(path: Path) -> dict[str, float]:
    "Multiply-accumulates of a file for one image: those in float, and those in integers"
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
              for v in [*model.graph.value_info, *model.graph.output]}
    weights, made = {c.name: list(c.dims) for c in model.graph.initializer}, {}
    found = {"float32": 0.0, "int8": 0.0}
    for node in model.graph.node:
        made[node.output[0]] = node
        if node.op_type in ("Conv", "Gemm"):
            name = node.input[1]
            while name not in weights:  # a weight is cast, scaled or dequantised first
                name = made[name].input[0]
            before = made.get(node.input[0])
            kind = "int8" if before is not None and before.op_type == "DequantizeLinear" else "float32"
            found[kind] += float(np.prod(weights[name]) * np.prod(shapes[node.output[0]][2:]))
    return found


# --- what is told


def distance(times, peak: dict[str, float]) -> Row:
    "How far the shipped network is from its limit"
    macs = macs_of(SHIPPED)
    limit = 1000 * sum(macs[kind] / peak[kind] for kind in macs)
    one = times.query("model == 'slim-int8' and engine == 'onnxruntime' and batch == 1 and threads == 1")
    parts = " and ".join(f"{count / 1e6:.1f} M in {kind}" for kind, count in macs.items())
    rates = ", ".join(f"{rate / 1e9:.0f} G/s in {kind}" for kind, rate in peak.items())
    return row("slim-int8, one image: times its limit", one["milliseconds"] / limit, "times",
               why=f"{parts} multiply-accumulates at this machine's {rates}: {limit:.3f} ms")


def measure(data: Path | None) -> Iterator[Row]:
    images = phantoms(40, size=224, seed=0).images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = latency(contenders(folder), images, threads=(1,), repeats=15, seconds=90)
        peak = peaks(folder)
    for (model, engine, batch), some in times.groupby(["model", "engine", "batch"], sort=False):
        most = 0.15 if (model, engine, batch) == ("slim-int8", "onnxruntime", 1) else None
        yield row(f"{model} in {engine}, {batch} image{'s' * (batch > 1)}, one thread", some["milliseconds"], "ms",
                  most=most, why=profile() if most else "")
    ours = times[(times["model"] == "slim-int8") & (times["engine"] == "onnxruntime")]
    for (engine, batch), some in times[times["model"] == "original"].groupby(["engine", "batch"], sort=False):
        ratio = some["milliseconds"].to_numpy() / ours[ours["batch"] == batch]["milliseconds"].to_numpy()
        yield row(f"slim-int8, {batch} image{'s' * (batch > 1)}: against `original` in {engine}", ratio, "times",
                  least=GOALS.get((engine, batch)), why=TRIED)
    yield first_in_integers(images)
    yield distance(times, peak)


def shipped_widths() -> tuple[list[int], list[int]]:
    "Channels of the shipped file's convolutions, and units of its hidden linear layers: the lengths of their biases"
    graph = onnx.load(SHIPPED).graph
    length = {constant.name: int(np.prod(constant.dims)) for constant in graph.initializer}
    for node in graph.node:  # a bias of a quantised layer
        if node.op_type == "DequantizeLinear" and node.input[0] in length:
            length[node.output[0]] = length[node.input[0]]
    of = lambda kind: [length[node.input[2]] for node in graph.node if node.op_type == kind]
    return of("Conv"), of("Gemm")[:-1]


def first_in_integers(images: np.ndarray) -> Row:
    "Whether the first convolution would be faster in INT8, in a network of the shipped widths with random weights"
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "float.onnx")
        model = narrow_alexnet(*shipped_widths(), planes=1, seed=0).eval()
        export_onnx(model, source, size=images.shape[-1])
        calls = {}
        for kind, in_float in (("float", ["features.0"]), ("int8", [])):
            _quantize(source, Path(name, f"{kind}.onnx"), images, "minmax", in_float)
            session = open_onnx(Path(name, f"{kind}.onnx"), threads=1)
            calls[kind] = lambda session=session: session.run(None, {"images": images[:1]})
        found = in_turns(calls, repeats=40)
    what = "slim-int8, one image: with its first convolution in INT8 as well, against float"
    return row(what, found["float"] / found["int8"], "times")


def guard_named() -> bytes:
    "The shipped file, its guard's operations named after what they compute: a profile tells names"
    model = onnx.load(SHIPPED)
    for node in model.graph.node:
        ours = node.output[0].startswith("guard_") or node.output[0] == "distance"
        if ours and node.op_type != "Cast":  # that of the image is the network's own, too
            node.name = f"guard_{node.output[0]}"
    return model.SerializeToString()


def profile() -> str:
    "Where the time of one call goes, from ONNX Runtime's own profile"
    import json

    with tempfile.TemporaryDirectory() as name:
        session = open_onnx(guard_named(), threads=1, profile=Path(name, "profile"))
        image = np.zeros((1, 1, 224, 224), np.uint8)
        for _ in range(200):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            part = "guard" if name.startswith("guard_") else event["args"]["op_name"]
            spent.setdefault(part, []).append(event["dur"] / 200)
    sums = sorted(((sum(each), part) for part, each in spent.items()), reverse=True)
    told = ", ".join(f"{part} {total:.0f}" for total, part in sums[:8])
    return f"µs a call, each operation a few longer by the profiler: {told}"


if __name__ == "__main__":
    run(measure)
