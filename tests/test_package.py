"The package as pip brings it: built from its source distribution, small without PyTorch, plain about what is missing"

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_string
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import pneumoprune

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from pneumoprune.cli import main; main()"]
EXTRAS = {"torch", "lab", "stream", "report", "dicom", "bench", "page", "dev"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The folder with the wheel and the source distribution; the wheel is built from the latter"
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    tree.mkdir()
    kept = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "models", "checkpoints", "node_modules")
    for source in ROOT.iterdir():
        if source.name.startswith(".") or source.suffix == ".egg-info":
            continue
        if source.name in ("bench", "nbs", "page", "report", "tests"):
            shutil.copytree(source, tree / source.name, ignore=kept)
        elif source.name == "pneumoprune":
            shutil.copytree(source, tree / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, tree)
    shutil.copytree(ROOT / "results/reference", tree / "results/reference", ignore=kept)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", tree]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "dist"


def wheel_of(folder):
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def about(built):
    "The wheel's metadata"
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(wheel.read(name).decode())


def test_the_wheel_holds_modules_network_licence_and_book(built):
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        names = set(wheel.namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pneumoprune").glob("*.py")}
    data = {"pneumoprune/py.typed", "pneumoprune/models/slim-int8.onnx"}
    data |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "pneumoprune/web").rglob("*.*")}
    findings = [path.relative_to(ROOT).as_posix() for path in (ROOT / "nbs/findings").rglob("0*.ipynb")]
    page = ["_quarto.yml", "_quarto-en.yml", "_quarto-ru.yml", "index.ipynb", "nbs/findings/references.bib",
            "nbs/findings/references.qmd", "report/typst-show.typ"]
    report = {f"pneumoprune/book/{name}" for name in (*findings, *page)}
    assert names >= modules | data | report and not [name for name in names if "book/nbs/0" in name]
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].removesuffix("-" + pneumoprune.__version__ + ".dist-info") for name in names} == {
        "pneumoprune"
    }


def test_the_source_distribution_is_the_checkout(built):
    [file] = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"settings.ini", "setup.py", "pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "README.md",
              "nbs/28_cli.ipynb", "page/package-lock.json",
              "tests/test_package.py", "report/readme.py", "results/reference/summary.json"}
    assert names >= needed
    stray = r"\.ipynb_checkpoints|reference/checkpoints|__pycache__|\.safetensors$|reference/models"
    assert not [name for name in names if re.search(stray, name)]


def test_the_metadata_is_true(about):
    assert about["Version"] == pneumoprune.__version__ and about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11" and "Typing :: Typed" in about.get_all("Classifier")
    assert about.get_payload().startswith("# pneumoprune") and "example.org" not in str(about)
    assert set(about.get_all("Provides-Extra")) == EXTRAS
    required = [Requirement(text) for text in about.get_all("Requires-Dist")]
    base = {r.name for r in required if r.marker is None}
    assert base == {"numpy", "onnxruntime", "pillow", "typer"}
    assert {extra for r in required if r.name == "pneumoprune" for extra in r.extras} < EXTRAS


def test_the_command_is_an_entry_point(built):
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        assert "pneumoprune = pneumoprune.cli:main" in wheel.read(name).decode()


def test_every_requirement_has_a_tested_version():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    words = " ".join(text for name, text in settings["DEFAULT"].items() if name.endswith("requirements")).split()
    pinned = {canonicalize_name(line.partition("==")[0])
              for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()}
    tools = {"setuptools", "wheel"}  # which pip does not freeze
    assert {canonicalize_name(Requirement(w).name) for w in words if not w.startswith("[")} - tools <= pinned


def brought_by(required):
    "The distributions that requirements bring, with those that these need; of our own extras, too"
    found, todo = set(), [(r, "") for r in required]
    while todo:
        requirement, _ = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras or {""}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                needed = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue  # for another system
            more = [r for r in map(Requirement, needed) if r.marker is None or r.marker.evaluate({"extra": extra})]
            todo += [(r, extra) for r in more]
    return {name for name, _ in found}


@cache
def modules_here():
    "The names of all modules of others that are installed here, and the distributions they are of"
    return {name: {canonicalize_name(one) for one in ones} for name, ones in metadata.packages_distributions().items()}


def importable(about, extra=""):
    "Those of them that `pip install pneumoprune[extra]` brings"
    def chosen(extra):
        rows = [r for r in map(Requirement, about.get_all("Requires-Dist"))
                if (r.marker is None) or r.marker.evaluate({"extra": extra})]
        inner = [r for name in rows if name.name == "pneumoprune" for one in name.extras for r in chosen(one)]
        return [r for r in rows if r.name != "pneumoprune"] + inner

    there = brought_by(chosen(extra))
    return {module for module, names in modules_here().items() if names & there}


BLOCKER = """
import sys

absent = set(%r)


class Without:
    "A finder to whom every module that the extra does not bring is not installed"
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *more)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Without, sys.meta_path)
"""


@pytest.fixture(scope="module")
def installed(built, about, tmp_path_factory):
    "A function that runs Python with the wheel and what an extra brings, and nothing else"
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        wheel.extractall(site)

    def run(*command, extra=""):
        with_blocker = site / f"sitecustomize-{extra}"
        if not with_blocker.exists():
            with_blocker.mkdir()
            absent = sorted(modules_here().keys() - importable(about, extra) - {"pneumoprune"})
            (with_blocker / "sitecustomize.py").write_text(BLOCKER % absent, encoding="utf-8")
        path = f"{with_blocker}:{site}"
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": path, "HOME": str(site),
                       "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, cwd=site)

    return run


@pytest.fixture(scope="module")
def xray(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 260), dtype=np.uint8)).save(path)
    return path


def test_the_base_predicts_and_explains(installed, xray, tmp_path):
    done = installed(*COMMAND, "predict", xray, "--json")
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["predictions"]
    assert 0 <= row["probability"] <= 1
    done = installed(*COMMAND, "explain", xray, "--force", "-o", tmp_path / "heat.png")
    assert done.returncode == 0 and Image.open(tmp_path / "heat.png").width == 448, done.stderr
    assert installed(*COMMAND, "--version").stdout == f"pneumoprune {pneumoprune.__version__}\n"
    done = installed(*COMMAND, "--help")
    assert done.returncode == 0 and "compact" in done.stdout


EVERY_COMMAND = """
import contextlib, importlib, io, json, sys
import pneumoprune
from pneumoprune.cli import main

answers = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv, said = ["pneumoprune", *arguments], io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        answers[" ".join(arguments)] = end.code, said.getvalue()
for name in pneumoprune._MODULES:
    try:
        getattr(pneumoprune, name)
    except ImportError as error:
        answers[name] = 2, f"{error}"
        assert isinstance(error, pneumoprune.PneumopruneError)
for name in pneumoprune._EXTRAS:
    try:
        importlib.import_module(f"pneumoprune.{name}")
    except pneumoprune.PneumopruneError as error:
        answers[f"module {name}"] = 2, f"{error}"
print(json.dumps(answers))
"""


def test_a_missing_extra_is_one_line_that_names_it(installed, xray, tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "net.safetensors").touch()
    commands = {
        ("lab", "--quick", "--out", str(tmp_path / "run")): "lab",
        ("report", str(tmp_path)): "report",
        ("evaluate", str(tmp_path)): "report",
        ("compact", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "small.safetensors")): "torch",
        ("page", "-o", str(tmp_path / "page")): "page",
        ("predict", str(tmp_path / "x.dcm")): "dicom",
        ("explain", str(xray), "-o", str(tmp_path / "h.png"), "--model", str(tmp_path / "net.safetensors")): "torch",
    }
    done = installed(sys.executable, "-c", EVERY_COMMAND, json.dumps(list(commands)))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for command, extra in commands.items():
        code, said = answers[" ".join(command)]
        assert code == 2 and said.count("\n") == 1, (command, said)
        assert said.startswith("pneumoprune: ") and said.endswith(f'pip install "pneumoprune[{extra}]"\n'), said
    for name in ("compact", "restore", "save_network", "load_network", "CompactionError"):
        assert answers[name][1].endswith('which is not installed: pip install "pneumoprune[torch]"'), name
    assert answers["run_lab"][1].endswith('"pneumoprune[lab]"') and answers["load_run"][1].endswith('[report]"')
    assert not {"predict_files", "PneumopruneError"} & answers.keys()
    for name, extra in pneumoprune._EXTRAS.items():
        code, said = answers[f"module {name}"]
        assert said.startswith(f"pneumoprune.{name} needs "), said
        assert said.endswith(f'pip install "pneumoprune[{extra}]"'), said
    others = {path.stem for path in (ROOT / "pneumoprune").glob("*.py")} - pneumoprune._EXTRAS.keys()
    assert others == {"__init__", "_modidx", "cli", "core", "dicom", "prediction"}  # these are for everybody
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors", "x.dcm"]


def imported(module, seen):
    "Modules of others that importing one of ours imports"
    seen.add(module)
    for node in ast.parse((ROOT / "pneumoprune" / f"{module}.py").read_text(encoding="utf-8")).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            ours = re.fullmatch(r"(?:\.|pneumoprune\.)(\w+)", source)
            if ours and ours[1] not in seen:
                yield from imported(ours[1], seen)
            names = [] if node.level or ours else [source]
        yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("module, extra", [("cli", ""), ("prediction", ""), ("assessment", "report"),
                                           *pneumoprune._EXTRAS.items()])
def test_an_extra_brings_what_its_modules_import(module, extra, about):
    others = set(imported(module, set())) - sys.stdlib_module_names - {"pneumoprune"}
    assert others - importable(about, extra) == set()


PRUNED = """
import sys, torch, torchvision
from torch.nn.utils import prune

network = torchvision.models.squeezenet1_1(num_classes=2)
prune.ln_structured(network.features[3].squeeze, "weight", 0.5, n=2, dim=0)
torch.save(network.state_dict(), sys.argv[1])
"""


@pytest.mark.hard
def test_the_extra_torch_alone_compacts(installed, tmp_path):
    pruned, small, onnx = (tmp_path / name for name in ("pruned.pt", "small.safetensors", "small.onnx"))
    assert installed(sys.executable, "-c", PRUNED, pruned, extra="torch").returncode == 0
    done = installed(*COMMAND, "compact", pruned, "--arch", "squeezenet1_1", "-o", small, "--onnx", onnx, extra="torch")
    assert done.returncode == 0 and onnx.exists() and small.stat().st_size < pruned.stat().st_size, done.stderr


@pytest.mark.hard
def test_extras_alone_are_enough_for_their_commands(installed, tmp_path):
    "Minutes: the smoke run with what `lab` brings, its report with what `report` brings"
    run = tmp_path / "a run"
    arguments = ("--quick", "--epochs", 2, "--size", 64, "--out", run, "--json")
    done = installed(*COMMAND, "lab", *arguments, extra="lab")
    assert done.returncode == 0 and json.loads(done.stdout)["smoke"], done.stderr
    done = installed(*COMMAND, "report", run, "--html", extra="report")
    assert done.returncode == 0 and done.stdout == f"{run / 'report.pdf'}\n", done.stderr
    assert (run / "report.html").is_file()
    done = installed(*COMMAND, "report", run, "--lang", "ru", extra="report")
    assert done.returncode == 0 and done.stdout == f"{run / 'report-ru.pdf'}\n", done.stderr


@pytest.mark.hard
def test_a_fresh_environment(built, xray, tmp_path):
    "Minutes: the base from pip's index, its size and its command; and the wheel from the source distribution alone"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, cwd=tmp_path)

    assert run(sys.executable, "-m", "venv", "venv").returncode == 0
    python, command = tmp_path / "venv/bin/python", tmp_path / "venv/bin/pneumoprune"
    done = run(python, "-m", "pip", "install", wheel_of(built))
    assert done.returncode == 0, done.stderr[-2000:]
    [site] = (tmp_path / "venv/lib").glob("python*/site-packages")
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 2**20
    print(f"site-packages: {size:.0f} MB")
    assert size <= 250
    modules = "torch pandas scipy sklearn matplotlib pydicom".split()
    found = run(python, "-c", f"from importlib.util import find_spec; print([*filter(find_spec, {modules})])")
    assert found.stdout == "[]\n", found
    for arguments in (("--help",), ("--version",), ("predict", xray), ("explain", "--force", xray, "-o", "heat.png")):
        done = run(command, *arguments)
        assert done.returncode == 0, done.stderr
    done = run(command, "compact", xray, "-o", "small.safetensors")
    assert done.returncode == 2 and done.stderr.endswith('pip install "pneumoprune[torch]"\n'), done.stderr
    [source] = built.glob("*.tar.gz")
    done = run(python, "-m", "pip", "wheel", "--no-deps", source)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(wheel_of(tmp_path)) as again, zipfile.ZipFile(wheel_of(built)) as before:
        assert set(again.namelist()) == set(before.namelist())
