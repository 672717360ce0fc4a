"The command line as a user meets it: every mistake is one line with a remedy, exit code 2, and nothing overwritten"

import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image

from pneumoprune import benchmark
from pneumoprune import lab as lab_chapter
from pneumoprune.checkpoints import compact_file
from pneumoprune.cli import app, main
from pneumoprune.compaction import CompactionError
from pneumoprune.core import read_json, write_json
from pneumoprune.evaluation import MIN_SEEDS
from pneumoprune.networks import save_network
from pneumoprune.run import reference_run
from pneumoprune.tables import reproduce_table

COMMAND = [sys.executable, "-c", "from pneumoprune.cli import main; main()"]
QUICK = ("--quick", "--epochs", "2", "--size", "64", "--skip-unreadable")


BROKEN = ["train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person101_virus_1.jpeg"]


def run(*arguments):
    "The command in this process: PyTorch is loaded once, not by every test"
    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, warnings.formatwarning)
    log = logging.getLogger("pneumoprune.lab")
    logged = log.handlers[:], log.level, log.propagate
    sys.argv = ["pneumoprune", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv, warnings.formatwarning = before
        log.handlers, log.level, log.propagate = logged  # other tests in this process look at it
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def archive(folder, classes=("NORMAL", "PNEUMONIA"), patients=24):
    "A small archive of noise in the Kaggle layout"
    rng = np.random.default_rng(0)
    for split, count in (("train", patients), ("test", patients // 3)):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                stem = f"IM-{i:04d}-0001" if name == "NORMAL" else f"person{i}_virus_{i}"
                offset = 100 if split == "test" else 0  # patients of their own
                stem = stem.replace(f"{i:04d}", f"{i + offset:04d}").replace(f"person{i}", f"person{i + offset}")
                noise = rng.integers(0, 256, (70, 80), dtype=np.uint8)
                Image.fromarray(noise).save(folder / split / name / f"{stem}.jpeg")
    return folder


def image(path):
    "A grey image of noise"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 80), dtype=np.uint8)).save(path)
    return path


def refused(done, *words):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "\npneumoprune: " in "\n" + done.stderr, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.fixture(scope="module")
def finished(attempt, tmp_path_factory):
    "A finished run on a small archive, two images of which cannot be read"
    folder = tmp_path_factory.mktemp("lab")
    data = archive(folder / "chest_xray")
    for name in BROKEN:
        (data / name).write_bytes((data / name).read_bytes()[:200])
    ended = attempt(["lab", "--data", data, "--out", folder / "run", *QUICK], folder, limit=600)
    assert ended.code == 0, ended.err
    return folder, ended


def test_lab_writes_the_run_folder_and_says_what_it_found(finished):
    folder, done = finished
    names = {"run.json", "history.csv", "predictions.csv", "latency.csv", "summary.json", "pruning.csv", "rounds.csv",
             "amounts.csv", "models"}
    assert names <= {p.name for p in (folder / "run").iterdir()}
    assert all(name in done.out for name in ("original", "masked", "compacted", "slim-int8"))
    assert "a smoke run" in done.out and "pneumoprune report" in done.out
    info = read_json(folder / "run/run.json")
    assert info["data"]["counts"]["test"] == {"NORMAL": 8, "PNEUMONIA": 7} and not info["data"]["synthetic"]
    assert {"original", "masked", "compacted", "slim", "slim-int8", "evaluate"} <= info["seconds"].keys()


def test_a_finished_run_is_told_again_and_as_json(finished, monkeypatch):
    folder, done = finished
    monkeypatch.chdir(folder)
    shutil.copytree("run", "my run")
    again = run("lab", "--data", "chest_xray", "--out", "my run", *QUICK)
    assert again.stdout.splitlines()[1:-1] == done.out.splitlines()[1:-1]
    assert again.stdout.splitlines()[-1] == "as a report: pneumoprune report 'my run'"
    told = json.loads(run("lab", "--data", "chest_xray", "--out", "my run", *QUICK, "--json").stdout)
    assert told["folder"] == "my run" and told["smoke"] and not told["synthetic"]
    assert told["models"] == read_json(folder / "run/summary.json")["models"]


def test_an_output_folder_of_another_configuration_is_left_alone(finished):
    folder, _ = finished
    before = {p: p.read_bytes() for p in (folder / "run").glob("*.*")}
    lab = ("lab", "--data", folder / "chest_xray", "--out", folder / "run", *QUICK)
    refused(run(*lab, "--seed", 5), "another run", "seed")
    refused(run(*lab, "--no-resume"), "exists")
    assert before == {p: p.read_bytes() for p in (folder / "run").glob("*.*")}


def test_a_run_interrupted_after_a_stage_goes_on_from_there(finished, tmp_path, monkeypatch):
    "The last stage is done again, but for its stopwatch: what was measured the first time stands in"
    folder, _ = finished
    for name in ("latency", "inference"):
        measured = pd.read_csv(folder / f"run/{name}.csv")
        stopwatch = {"inference": "inference_seconds"}.get(name, name)
        monkeypatch.setattr(benchmark, stopwatch, lambda *_, m=measured, **__: m)
    copy = shutil.copytree(folder / "run", tmp_path / "run")
    for name in ("summary.json", "predictions.csv", "models/masked.safetensors"):
        (copy / name).unlink()
    shutil.rmtree(copy / "checkpoints/masked-2")
    seconds = read_json(copy / "run.json")["seconds"]["original"]
    done = run("lab", "--data", folder / "chest_xray", "--out", copy, *QUICK)
    assert done.returncode == 0, done.stderr
    assert (copy / "predictions.csv").read_bytes() == (folder / "run/predictions.csv").read_bytes()
    assert read_json(copy / "run.json")["seconds"]["original"] == seconds


def test_mistakes_in_the_data(tmp_path):
    out = tmp_path / "out"

    def lab(data, *more):
        return run("lab", "--data", data, "--out", out, "--quick", "--size", "64", *more)

    refused(lab(tmp_path / "missing.zip"), "missing.zip", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(lab(tmp_path / "empty"), "empty")
    refused(lab(archive(tmp_path / "one_class", classes=("NORMAL",))), "PNEUMONIA")
    climbing = tmp_path / "climbing.zip"
    with zipfile.ZipFile(climbing, "w") as file:
        file.writestr("../../train/NORMAL/IM-0001-0001.jpeg", b"")
    refused(lab(climbing), "climbing.zip")
    np.savez(tmp_path / "strange.npz", x=np.zeros(3))
    refused(lab(tmp_path / "strange.npz"), "strange.npz", "train_images")
    assert not out.exists()


def test_unreadable_images_are_all_named(finished, tmp_path):
    folder, _ = finished
    names = [Path(name).name for name in BROKEN]
    lab = ("lab", "--data", folder / "chest_xray", "--out", tmp_path / "out", "--quick", "--size", "64")
    refused(run(*lab), *names, "--skip-unreadable")
    unreadable = str(read_json(folder / "run/run.json")["data"]["unreadable"])
    assert all(name in unreadable for name in names)


def test_mistakes_in_the_options(tmp_path):
    out = tmp_path / "out"
    refused(run("lab", "--out", out, "--size", "32"), "63")
    refused(run("lab", "--out", out, "--epochs", "0"), "--epochs")
    refused(run("lab", "--out", out, "--limit", "3"), "--limit")
    write_json(tmp_path / "thesis/chapter.json", {})
    refused(run("lab", "--size", "64", "--out", tmp_path / "thesis"), "not empty", "--out")
    refused(run("report", tmp_path / "nothing"), "nothing")
    assert not out.exists()


def test_interrupted_lab_says_how_to_go_on(attempt, tmp_path):
    "Ctrl-C in a training: one line, exit code 130 (what is kept of it: test_training)"
    arguments = ["lab", "--quick", "--epochs", "4", "--size", "64", "--limit", "60", "--out", tmp_path / "run"]
    ended = attempt(arguments, tmp_path, interrupt_at=tmp_path / "run/run.json", limit=300)
    assert ended.code == 130 and "give the same command again" in ended.err and "Traceback" not in ended.err, ended.err


def test_wrong_files_and_devices_get_one_line(tmp_path):
    (tmp_path / "text.txt").write_text("hello, no image")
    target = tmp_path / "small.safetensors"
    refused(run("compact", tmp_path / "text.txt", "-o", target), "text.txt", "state_dict")
    with pytest.raises(CompactionError, match="is a folder"):
        compact_file(tmp_path, "alexnet", target)
    with pytest.raises(CompactionError, match="should end in .safetensors"):
        compact_file(tmp_path / "text.txt", "alexnet", tmp_path / "small.pt")
    refused(run("lab", "--quick", "--out", tmp_path / "text.txt"), "is a file", "--out")
    heat = tmp_path / "text.txt/heat.png"
    refused(run("explain", image(tmp_path / "x.png"), "-o", heat, "--force"), "heat.png", "another place")
    if not torch.cuda.is_available():
        refused(run("lab", "--quick", "--device", "cuda", "--out", tmp_path / "run"), "no CUDA device", "'cpu'")
    assert not target.exists() and not (tmp_path / "run").exists()


def test_a_run_folder_is_a_model_everywhere(finished, tmp_path):
    folder, _ = finished
    model, picture = folder / "run/models/slim-int8.onnx", image(tmp_path / "x.png")
    for command in (("predict", picture), ("explain", picture, "-o", tmp_path / "heat.png", "--force")):
        one, other = (run(*command, "--model", given) for given in (model, folder / "run"))
        assert one.returncode == 0 and one.stdout == other.stdout, other.stderr
    refused(run("predict", picture, "--model", folder), "holds no models/slim-int8.onnx", "give a run")


def test_a_report_in_html_is_named_too(tmp_path, monkeypatch):
    from pneumoprune import report

    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    monkeypatch.setattr(report, "render_report", lambda run, *_, **__: Path(run) / "report.pdf")
    assert run("report", "mine").stdout.split() == [str(Path("mine/report.pdf"))]
    assert run("report", "mine", "--html").stdout.split() == [f"mine{os.sep}report.{kind}" for kind in ("pdf", "html")]


def test_a_mistake_is_told_in_words_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\ndef net(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))\n"
    Path("two_layers.py").write_text(code, encoding="utf-8")
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3)).state_dict(), "c.pt")
    np.save("x.npy", np.zeros((1, 3, 8, 8)))
    command = ("compact", "c.pt", "--arch", "two_layers:net", "-o", "o.safetensors")
    refused(run(*command, "--size", 3), "can't see inputs", "--size N", "--inputs FILE")
    refused(run(*command, "--inputs", "x.npy"), "torch.save(batch, 'x.pt')")
    with pytest.warns(UserWarning, match="nothing was removed from c.pt"):
        assert run(*command, "--size", 8).returncode == 0


def test_a_network_whose_answer_no_longer_depends_on_its_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\ndef net(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))\n"
    Path("two_convolutions.py").write_text(code, encoding="utf-8")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3))
    torch.nn.utils.prune.ln_structured(net[1], "weight", 1.0, n=2, dim=1)
    torch.save(net.state_dict(), "c.pt")
    command = ("compact", "c.pt", "--arch", "two_convolutions:net", "-o", "o.safetensors", "--size", 8)
    told = "the network's answer no longer depends on its input: nothing gets past module '1'"
    with pytest.warns(UserWarning, match=told):
        done, as_json = run(*command), run(*command, "--json")
    assert done.returncode == 0 and told in done.stdout, done.stderr
    report = json.loads(as_json.stdout)
    assert report["constant_answer"] is True and report["dead_ends"] == ["module '1'"]


def test_predict_stops_at_a_broken_image_or_names_it_and_goes_on(tmp_path):
    names = [image(tmp_path / "a.png"), tmp_path / "b.png", image(tmp_path / "c.png")]
    names[1].write_bytes(names[0].read_bytes()[:100])
    refused(run("predict", tmp_path), "b.png", "--skip-unreadable")
    done = run("predict", tmp_path, "--skip-unreadable", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["predictions"]
    assert [Path(row["file"]).name for row in found] == ["a.png", "b.png", "c.png"]
    assert ["error" in row for row in found] == [False, True, False]
    assert run("predict", names[1], "--skip-unreadable").returncode == 2, "nothing was predicted"


def test_a_file_name_that_the_terminal_cannot_write_is_told_by_numbers(tmp_path):
    command = [*COMMAND, "predict", image(tmp_path / "снимок.png")]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, text=True)
    assert done.returncode == 0 and r"\u0441" in done.stdout, done.stderr


def test_version():
    told = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True).stdout
    assert told == f"pneumoprune {version('pneumoprune')}\n"


def test_files_have_the_rights_that_files_have_here(tmp_path):
    "safetensors alone would keep a network for its owner"
    (tmp_path / "plain").touch()
    save_network(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "network.safetensors")
    assert (tmp_path / "network.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_log_file_gets_lines_and_no_bar():
    code = """
import sys
from pneumoprune import cli

def slow(**_):
    from tqdm.auto import tqdm
    for _ in tqdm(range(500), desc="training"):
        pass

cli.app = slow
cli.main()
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TQDM_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 0 and 1 <= len(lines) <= 3
    assert all(line.startswith("training: ") for line in lines) and "500/500" in lines[-1]


def test_tags_of_another_modality_are_told_with_every_answer(tmp_path):
    from bad_inputs import dicom

    (knee := tmp_path / "knee.dcm").write_bytes(dicom(Modality="MR", BodyPartExamined="KNEE"))
    for answer in (run("predict", knee), run("explain", knee, "-o", tmp_path / "heat.png", "--force")):
        assert answer.returncode == 0 and "DICOM tags say modality MR, body part KNEE" in answer.stdout, answer.stderr


def test_a_mistake_that_can_be_seen_at_once_costs_no_import_of_torch(tmp_path):
    image(tmp_path / "x.png")
    missing, out = tmp_path / "missing", tmp_path / "new"
    commands = [
        ["lab", "--data", missing], ["lab", "--external", missing], ["lab", "--aspects", missing],
        ["lab", "--size", "9"], ["lab", "--limit", "3"], ["lab", "--epochs", "0"], ["lab", "--table", "t.csv"],
        ["lab", "--seeds", "2", "--only-seed", "2"], ["lab", "--out", tmp_path / "x.png"],
        ["compact", missing, "-o", out], ["compact", tmp_path / "x.png", "-o", out],
        ["compact", tmp_path / "x.png", "-o", "x.safetensors", "--inputs", missing],
        ["compact", tmp_path / "x.png", "-o", "x.safetensors", "--onnx", out],
        ["check", missing], ["report", missing], ["evaluate", missing], ["evaluate", tmp_path, "--model", missing],
        ["evaluate", tmp_path, "--out", tmp_path / "x.png"],
        ["explain", missing, "--model", "x.safetensors"], ["explain", tmp_path / "x.png", "-o", out],
    ]  # fmt: skip
    code = """
import json, sys
from pneumoprune.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pneumoprune", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, arguments
print(sorted({"torch", "pandas"} & set(sys.modules)))
"""
    given = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(commands) and all(line.startswith("pneumoprune: ") for line in lines), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_explain_names_its_picture_after_the_image_and_keeps_the_image(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = image(tmp_path / "x.png").read_bytes()
    done = run("explain", tmp_path / "x.png", "--force")
    assert done.returncode == 0 and done.stdout.startswith("written to x-explained.png"), done.stderr
    assert [path.name for path in Path().iterdir()] == ["x-explained.png"]
    assert (tmp_path / "x.png").read_bytes() == before


def lab_options(words):
    "What the options of a `lab` command mean: its settings, and all that is no setting; places by their names"
    command = typer.main.get_command(app).commands["lab"]  # type: ignore
    told = command.make_context("lab", list(words)).params
    for name in ("out", "jobs", "only_seed", "resume", "json"):
        told.pop(name)
    for name in ("data", "external", "table", "external_table", "aspects"):
        told[name] = told[name] and Path(told[name]).name
    for name in ("column", "external_column"):
        told[name] = sorted(told[name] or [])
    told["device"] = told["device"].value
    shared = ("epochs", "size", "seed", "seeds", "limit", "quick", "max_file_mb", "max_macs", "min_speedup")
    chosen = {name: told.pop(name) for name in shared}
    settings = lab_chapter.lab_settings(**chosen, device=told["device"], synthetic=told["data"] is None)
    return told | {"settings": settings}


def told_command(run):
    words = shlex.split(reproduce_table(run).loc["command", "value"])
    assert words[:2] == ["pneumoprune", "lab"]
    return lab_options(words[2:])


def test_the_report_of_the_reference_run_tells_the_command_of_the_readme():
    section = Path("README.md").read_text(encoding="utf-8").partition("### The reference run")[2]
    block = re.search(r"```sh\n(make lab DATA.+?)```", section, re.S)
    assert block
    given = dict(word.split("=", 1) for word in shlex.split(block[1].replace("\\\n", ""))[2:])
    assert told_command(reference_run()) == lab_options(["--data", given["DATA"], *shlex.split(given["ARGS"])])


@pytest.fixture
def unmade(monkeypatch):
    "The lab without its stages: a run folder with its run.json, and the results of the reference run"
    reference = reference_run()
    monkeypatch.setattr(lab_chapter, "_make", lambda *_: None)
    told = lambda folder: replace(reference, folder=folder, info=read_json(folder / "run.json"))
    monkeypatch.setattr(lab_chapter, "load_run", told)


def tabled(folder, shared=()):
    "80 images of 40 patients and a table of them, twice; half the images of each `shared` patient are for training"
    (folder / "of us").mkdir(parents=True)
    rows = []
    for i in range(80):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        who = f"P{i // 2}"
        split = "train" if i < 48 or (who in shared and i % 2) else "test"
        rows.append({"file": f"{i}.png", "is it": i // 2 % 2, "who": who, "set": split})
    pd.DataFrame(rows).to_csv(folder / "of us/labels.csv", index=False)
    pd.DataFrame(rows).to_csv(folder / "beside.csv", index=False)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        "--data {0}/beside.csv --column label='is it' --column patient=who",
        "--data {0} --table 'of us/labels.csv' --column 'label=is it' --limit 41 --quick --max-pixels 5000 --epochs 3",
        "--data {0} --table labels.csv --column 'label=is it' --seeds 2 --seed 3 --max-file-mb 0.12345678 --device cpu",
        "--data {0}/beside.csv --column 'label=is it' --aspects {0}/aspects.csv --external {0}/beside.csv "
        "--external-column 'label=is it' --external-column patient=file --skip-unreadable --min-speedup 1234567",
        "--data {0}/beside.csv --column 'label=is it' --external {0} --external-table labels.csv "
        "--external-column 'label=is it' --skip-unreadable",
    ],
)
def test_the_command_in_a_report_repeats_its_run(options, tmp_path, unmade, monkeypatch):
    monkeypatch.setenv("PNEUMOPRUNE_CACHE", str(tmp_path / "cache"))
    images = tabled(tmp_path / "x rays")
    aspects = pd.read_csv(images / "beside.csv").rename(columns={"file": "name"}).assign(log_aspect=0.1)
    aspects.to_csv(images / "aspects.csv", index=False)
    if "--skip-unreadable" in options:
        (images / "79.png").write_bytes(b"no image")
    words = [word.replace("{0}", str(images)) for word in shlex.split(options)]
    done = run("lab", *words, "--size", "64", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    made = replace(reference_run(), info=read_json(tmp_path / "run/run.json"))
    assert told_command(made) == lab_options([*words, "--size", "64"])


def test_what_was_found_in_the_images_is_told_when_the_run_starts(tmp_path, unmade, monkeypatch):
    monkeypatch.setenv("PNEUMOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lab_chapter, "_MANY", 50)
    images = tabled(tmp_path / "xrays", shared=("P30", "P31"))
    lines = "--column", "label=is it", "--size", "64"
    shared = "--data", images / "beside.csv", "--column", "patient=who", *lines
    done = run("lab", *shared, "--out", tmp_path / "shared")
    assert done.returncode == 0
    assert "pneumoprune: note: in more than one split: 2 patients (P30, P31)\n" in done.stderr
    pd.read_csv(images / "beside.csv").drop(columns="who").to_csv(images / "nameless.csv", index=False)
    done = run("lab", "--data", images / "nameless.csv", *lines, "--external", images / "nameless.csv",
               "--external-column", "label=is it", "--out", tmp_path / "nameless")  # fmt: skip
    info = read_json(tmp_path / "nameless/run.json")
    assert info["data"]["notes"] and info["external"]["notes"]
    for prefix, part in (("", "data"), ("external: ", "external")):
        for note in info[part]["notes"]:
            assert f"pneumoprune: note: {prefix}{note}\n" in done.stderr
    assert "--limit 300" not in done.stderr
    assert "--limit 300" in run("lab", *shared, "--quick", "--out", tmp_path / "quick").stderr
    assert "--limit 300" not in run("lab", *shared, "--quick", "--limit", 60, "--out", tmp_path / "few").stderr


def test_two_trainings_are_said_to_be_too_few_for_an_interval(tmp_path, unmade, monkeypatch):
    monkeypatch.setenv("PNEUMOPRUNE_CACHE", str(tmp_path / "cache"))
    images = tabled(tmp_path / "xrays")
    for seeds in (1, MIN_SEEDS - 1, MIN_SEEDS):
        told = run("lab", "--data", images / "beside.csv", "--column", "label=is it", "--size", "64",
                   "--seeds", seeds, "--out", tmp_path / str(seeds)).stderr  # fmt: skip
        assert ("trainings are too few" in told) == (1 < seeds < MIN_SEEDS)
    assert f"{MIN_SEEDS} or more for intervals over trainings" in " ".join(run("lab", "--help").stdout.split())
