"A network judged on X-rays of one's own: sources, groups, refusals, and the command"

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pneumoprune.assessment import assess, assess_source, group_by
from pneumoprune.cli import app
from pneumoprune.core import PneumopruneError
from pneumoprune.data import load_labelled, load_xrays
from pneumoprune.evaluation import metrics
from pneumoprune.prediction import OnnxModel
from pneumoprune.synthetic import phantoms

DRAWN = phantoms(60, size=224, seed=2)
MODEL = OnnxModel()


def dicom(path: Path, image: np.ndarray) -> None:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    data.Rows, data.Columns, data.SamplesPerPixel, data.PixelRepresentation = *image.shape, 1, 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PhotometricInterpretation, data.PixelData = 7, "MONOCHROME2", image.tobytes()
    data.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    "Images as DICOM files named by the patient, and a table with a row for each finding"
    folder = tmp_path_factory.mktemp("rsna")
    (folder / "train_images").mkdir()
    rows = []
    for i, (image, label) in enumerate(zip(DRAWN.images[:, 0], DRAWN.labels)):
        name = f"{i:08x}-f.{i}"  # a dot that is no suffix
        dicom(folder / f"train_images/{name}.dcm", image)
        rows += [{"patientId": name, "x": "", "Target": label}] * (1 + label)
    pd.DataFrame(rows).to_csv(folder / "train_labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    "A zip of two folders and a table whose names end in another suffix"
    folder = tmp_path_factory.mktemp("nih")
    rows = []
    for i, (image, label) in enumerate(zip(DRAWN.images[:, 0], DRAWN.labels)):
        file = folder / f"set/{('NORMAL', 'PNEUMONIA')[label]}/{i:04}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, quality=95)
        told = {"patient": DRAWN.patients[i], "age": i, "view": "AP"[i % 2 :]}
        rows.append({"file": f"{i:04}.png", "label": label, **told})
    pd.DataFrame(rows).to_csv(folder / "set/labels.csv", index=False)
    return Path(shutil.make_archive(str(folder / "set"), "zip", folder, "set"))


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_dicom_with_a_table_is_judged(challenge):
    judged = assess_source(challenge / "train_labels.csv")
    assert judged.report["data"]["images"] == len(DRAWN) == judged.report["data"]["patients"]
    scores = dict(zip(judged.predictions["name"], judged.predictions["slim-int8"]))
    expected = MODEL.predict(np.stack([stretched(image) for image in DRAWN.images]))
    found = [scores[f"train_images/{i:08x}-f.{i}.dcm"] for i in range(len(DRAWN))]
    assert found == pytest.approx(expected, abs=1e-6)
    assert judged.report["metrics"]["auc"][0] == pytest.approx(metrics(DRAWN.labels, expected)["auc"])


def stretched(image):
    values = image.astype(float)
    return np.rint((values - values.min()) * (255 / np.ptp(values))).astype(np.uint8)


def test_dicom_with_a_table_is_learned_from(challenge):
    "The same layout as the lab loads it: a test part by patient, the same in every load"
    xrays = load_xrays(challenge / "train_labels.csv", 64)
    again = load_xrays(challenge, 64, table="train_labels.csv", cache=False)
    assert {"train", "test"} == set(xrays.split) and (xrays.split == again.split).all()
    assert (xrays.names == again.names).all() and xrays.fingerprint == again.fingerprint
    assert any("no splits are told" in note for note in xrays.notes)


@pytest.mark.hard
def test_the_lab_runs_on_dicom_with_a_table(challenge, tmp_path):
    done = run("lab", "--data", challenge / "train_labels.csv", "--quick", "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    assert set(json.loads((tmp_path / "run/summary.json").read_text())["models"]) >= {"original", "slim-int8"}


def test_the_command_tells_and_writes(collection, tmp_path):
    groups = ("--table", "labels.csv", "--by", "view", "--by", "age:18")
    done = run("evaluate", collection, *groups, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert told["data"]["patients"] == len(set(DRAWN.patients)) and np.sum(told["confusion"]) == len(DRAWN)
    assert set(told["groups"]["view"]["groups"]) == {"AP", "P"} and told["groups"]["age"]["within_auc"]
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert ((table["slim-int8"] >= told["model"]["threshold"]) == (table["decision"] == "PNEUMONIA")).all()
    with Image.open(tmp_path / "evaluation.png") as figure:
        assert figure.width > 1000
    said = run("evaluate", collection).stdout
    assert "not used: the table set/labels.csv" in said and f"{len(DRAWN)} images of {len(DRAWN)} patients" in said


@pytest.mark.parametrize("arguments, words", [
    (["--table", "none.csv"], "none.csv is neither in set.zip nor a file"),
    (["--table", "labels.csv", "--by", "sex"], "no column 'sex' to group by; its columns are age, view"),
    (["--table", "labels.csv", "--column", "label=view"], "holds 'AP', 'P'; expected 0 and 1"),
    (["--table", "labels.csv", "--column", "sex=view"], "sex=view: give a role"),
    (["--table", "labels.csv", "--split", "test"], "tells no splits; leave out --split test"),
    (["--by", "view"], "only a table brings columns"),
    (["--model", "none.onnx"], "none.onnx is missing"),
])  # fmt: skip
def test_what_is_refused(collection, arguments, words):
    done = run("evaluate", collection, *arguments)
    told = str(done.exception) if isinstance(done.exception, PneumopruneError) else done.stderr
    assert done.exit_code != 0 and words in told


@pytest.mark.parametrize("content, words", [
    (b"", "can't be read as a CSV table"), (b"\x89PNG\r\n\x1a\n\x00\xff", "can't be read as a CSV table"),
    (b"file,label\n", "has no rows"), (b"a,b\n1,2\n", "no column that tells the path"),
    (b'file,label\n"a.png,0\n', "a CSV table"), (b"file,label\na.png,0,1,2\n", "can't be read as a CSV table"),
    (b"file,label\n../../etc/passwd,0\n", "none of the 1 image"),
    (b"file,label\n,0\n", "none of the 1 image"),
])  # fmt: skip
def test_a_table_that_is_none(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(PneumopruneError, match=words):
        load_labelled(tmp_path / "t.csv", 64, cache=False)


def test_a_table_without_further_columns_and_with_absolute_paths(collection, tmp_path):
    folder = collection.parent / "set"
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    paths = [next(folder.rglob(Path(name).stem + ".jpeg")) for name in table["file"]]
    table.assign(file=paths)[["file", "label"]].to_csv(tmp_path / "x.csv", sep=";", index=False)
    xrays = load_labelled(tmp_path / "x.csv", 64, cache=False)
    assert len(xrays) == len(DRAWN) and xrays.columns.shape == (len(DRAWN), 0)
    assert "each image is taken as a patient of its own" in xrays.notes[0]


def test_groups_keep_their_order_and_unknown_values():
    columns = pd.DataFrame({"age": [*range(58), None, None], "ward": ["", "b"] * 30})
    xrays = replace(DRAWN, columns=columns)
    assert [*group_by(xrays, "age:9,18")[1].categories] == ["under 9", "9 to under 18", "18 and over", "unknown"]
    assert [*group_by(xrays, "ward")[1].categories] == ["b", "unknown"]
    found = assess(xrays, MODEL, by=["age:9"], resamples=20).report["groups"]["age"]["groups"]
    assert [part["images"] for part in found.values()] == [9, 49, 2]


def test_a_view_is_no_copy():
    sorted_by_split = DRAWN.take(np.argsort(DRAWN.split, kind="stable"))
    for split in ("train", "val", "test"):
        assert np.shares_memory(sorted_by_split.part(split).images, sorted_by_split.images)
