"The project's own house rules: the module is what the notebooks export, and the notebooks are clean"

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pneumoprune

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    "A copy of notebooks and module, exported and cleaned anew"
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "nbs", "pneumoprune"):
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
    for command in ("nbdev-export", "nbdev-clean"):
        subprocess.run([Path(sys.executable).with_name(command)], cwd=folder, check=True, capture_output=True)
    return folder


def test_export_leaves_no_diff(copied):
    exported = {p.name: p.read_text(encoding="utf-8") for p in (copied / "pneumoprune").glob("*.py")}
    committed = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "pneumoprune").glob("*.py")}
    assert exported.keys() == committed.keys()
    assert [name for name in committed if exported[name] != committed[name]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_clean_and_executed(path, copied):
    text = path.read_text(encoding="utf-8")
    assert (copied / path.relative_to(ROOT)).read_text(encoding="utf-8") == text, f"run nbdev_clean on {path.name}"
    notebook = json.loads(text)
    assert "widgets" not in notebook["metadata"], f"{path.name}: saved progress bars; run report/strip_stderr.py"
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        assert "eval: false" not in source, f"{path.name}, cell {number} is skipped by tests"
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        noise = [output for output in cell["outputs"] if output.get("name") == "stderr"]
        assert not noise, f"{path.name}, cell {number}: saved warnings or progress bars; run report/strip_stderr.py"
        if re.search(r"^#\|\s*label: (fig|tbl)-", source, re.M):
            assert cell["outputs"], f"{path.name}, cell {number}: execute the notebook and save its outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapter_starts_with_title_and_subtitle(path):
    first = "".join(cells(path)[0]["source"]).splitlines()
    report = "findings" in path.parts  # its chapters are pages of one document, with no subtitles
    assert first[0].startswith("# ") and (report or any(line.startswith("> ") for line in first[1:4]))


def test_figures_and_tables_have_captions_alt_text_and_unique_labels():
    labels = []
    for path in NOTEBOOKS:
        other = "ru" in path.parts  # the Russian report has the labels of the English one
        for cell in cells(path):
            source = "".join(cell["source"])
            for kind, name in re.findall(r"^#\|\s*label: (fig|tbl)-([\w-]+)", source, re.M):
                labels.append(f"{kind}-{name}{' (ru)' * other}")
                assert f"{kind}-cap:" in source, f"{labels[-1]} has no caption"
                assert kind == "tbl" or "fig-alt:" in source, f"{labels[-1]} has no alt text"
    assert len(labels) == len(set(labels))


def test_a_module_imports_only_the_chapters_above_it():
    order = [m[1] for p in NOTEBOOKS if (m := re.search(r"#\| default_exp (\w+)", p.read_text(encoding="utf-8")))]
    for number, name in enumerate(order):
        text = (ROOT / "pneumoprune" / f"{name}.py").read_text(encoding="utf-8")
        imported = set(re.findall(r"^\s*from (?:pneumoprune)?\.(\w+) import", text, re.M))
        below = set(order[number:]) & imported
        assert name == "cli" or not below, f"{name} imports {below}, chapters that come after it"


def test_help_answers_at_once_and_imports_nothing_heavy():
    code = """
import sys
sys.argv = ["pneumoprune", "--help"]
from pneumoprune.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert done.returncode == 0 and "Usage" in done.stdout
    assert not {"torch", "numpy", "scipy", "pandas", "matplotlib", "onnxruntime", "PIL", "importlib.metadata"} & modules


def test_the_package_has_a_face_and_costs_nothing_until_it_is_used():
    code = """
import sys
before = set(sys.modules)
import pneumoprune
dir(pneumoprune)
print(*set(sys.modules) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["pneumoprune"]
    source = (ROOT / "pneumoprune/__init__.py").read_text(encoding="utf-8")
    for_checkers = {name: module for module, name in re.findall(r"from \.(\w+) import (\w+) as \2\n", source)}
    assert for_checkers == pneumoprune._MODULES
    for name, module in pneumoprune._MODULES.items():
        assert getattr(pneumoprune, name).__module__ == f"pneumoprune.{module}" and name in dir(pneumoprune)
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        getattr(pneumoprune, "nothing_of_the_kind")  # noqa: B009


def test_every_notebook_is_a_chapter_of_one_book_in_its_order():
    lists = [path.read_text(encoding="utf-8") for path in ROOT.glob("_quarto-*.yml")]
    listed = [name for text in lists for name in re.findall(r"- (nbs/\S+)", text)]
    notebooks = {name for name in listed if name.endswith(".ipynb")}
    assert sorted(notebooks) == [path.relative_to(ROOT).as_posix() for path in NOTEBOOKS]
    first, *lessons = [name for name in listed if name.count("/") == 1]
    assert first == "nbs/00_start_here.ipynb" and lessons == sorted(lessons)


def test_links_between_chapters_lead_somewhere():
    for path in NOTEBOOKS:
        text = "\n".join("".join(cell["source"]) for cell in cells(path))
        for target in re.findall(r"\]\(([\w./-]+\.ipynb)", text):
            assert (path.parent / target).is_file(), f"{path.name} links to {target}"


def test_installed_package_does_not_import_nbdev():
    for path in (ROOT / "pneumoprune").glob("*.py"):
        assert not re.search(r"^\s*(from|import) (nbdev|fastcore)", path.read_text(encoding="utf-8"), re.M), path.name


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_tells_every_target_and_does_nothing_without_one():
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (targets,) = re.findall(r"^\.PHONY: (.*?[^\\])$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M | re.S)
    assert set(re.findall(r"^  make ([\w-]+)", told, re.M)) == set(targets.replace("\\", " ").split())
    assert told == subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
