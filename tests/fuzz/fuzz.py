"""
Files that no person would think of: `make fuzz` changes good files at random, guided by the code they reach, and lets
the package read them. Whatever a file holds, it is read, or refused by a `PneumopruneError`; anything else is a fault,
and its input is kept.

    python tests/fuzz/fuzz.py TARGET CORPUS [libFuzzer's options, such as -max_total_time=60]
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["pneumoprune"]):
    from pneumoprune.core import PneumopruneError
    from pneumoprune.data import load_xrays
    from pneumoprune.networks import load_network
    from pneumoprune.prediction import OnnxModel, read_image
    from pneumoprune.run import load_run

from simulated import simulated_run  # noqa: E402

PLACE = Path(tempfile.mkdtemp())


def image(data: bytes) -> None:
    "A PNG, a JPEG or, with its mark, a DICOM file"
    read_image(written("x.dcm" if data[128:132] == b"DICM" else "x.png", data), 64, max_pixels=10**6)


def archive(data: bytes) -> None:
    load_xrays(written("x.zip", data), 64, cache=False, workers=1, max_pixels=10**6)


def arrays(data: bytes) -> None:
    load_xrays(written("x.npz", data), 64, cache=False, workers=1, max_pixels=10**6)


def network(data: bytes) -> None:
    load_network(written("x.safetensors", data))


def onnx(data: bytes) -> None:
    OnnxModel(written("x.onnx", data))


RUN = PLACE / "run"
FILES = ("run.json", "summary.json", "history.csv", "predictions.csv", "latency.csv", "rounds.csv")


def run(data: bytes) -> None:
    "One file of a run folder: the first byte says which"
    file = RUN / FILES[data[0] % len(FILES)] if data else RUN / FILES[0]
    before = file.read_bytes()
    try:
        file.write_bytes(data[1:])
        found = load_run(RUN)
        found.models, found.synthetic, found.smoke  # noqa: B018
    finally:
        file.write_bytes(before)


def written(name: str, data: bytes) -> Path:
    (PLACE / name).write_bytes(data)
    return PLACE / name


TARGETS = {"image": image, "zip": archive, "npz": arrays, "network": network, "onnx": onnx, "run": run}


def seeds(target: str, corpus: Path) -> None:
    "Good files, and bad ones that people have met, to start from"
    import bad_inputs as bad

    corpus.mkdir(parents=True, exist_ok=True)
    files = {
        "image": lambda: (
            bad.images() | {"good.png": bad.encoded("PNG"), "good.jpg": bad.encoded("JPEG"), "x": bad.dicom()}
        ),
        "zip": lambda: {"good": bad.zipped(bad.kaggle())},
        "npz": lambda: {"good": bad.arrays()},
        "network": lambda: {
            name: data for name, data in bad.checkpoints(PLACE).items() if name.endswith("safetensors")
        },
        "onnx": lambda: bad.models() | {"good.onnx": bad.answering()},
        "run": lambda: {f"{i}": bytes([i]) + (RUN / name).read_bytes()[:4000] for i, name in enumerate(FILES)},
    }[target]()
    for name, data in files.items():
        if len(data) < 100_000:
            (corpus / name).write_bytes(data)


def main() -> None:
    target, corpus = sys.argv[1], Path(sys.argv[2])
    simulated_run(1, folder=RUN)
    seeds(target, corpus)
    warnings.simplefilter("ignore")

    def one(data: bytes) -> None:
        try:
            TARGETS[target](data)
        except PneumopruneError:
            pass

    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
