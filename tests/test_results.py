"""Results in English and Russian: executed against other runs, every number changes and the words follow the signs"""

import ast
import json
import re
from pathlib import Path

import IPython.display
import matplotlib.figure
import pandas as pd
import pytest
from simulated import simulated_run

from pneumoprune import phrases as ph
from pneumoprune import tables as tb
from pneumoprune.core import MODELS

ROOT = Path(__file__).parent.parent
CHAPTERS = {"en": ROOT / "nbs/findings/results.ipynb", "ru": ROOT / "nbs/findings/ru/otchet.ipynb"}
SEEDS = (1, 2, 3, 4)


def sources(path: Path, kind: str) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def executed(path: Path, run: Path, monkeypatch) -> list:
    "What each code cell of a chapter shows, in order: Markdown text, tables, figures"
    shown = []
    monkeypatch.setenv("PNEUMOPRUNE_RUN", str(run))
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    names, results = {}, []
    for source in sources(path, "code"):
        shown.clear()
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), path.name, "eval"), names)
            shown.extend([] if value is None else [value])
        results.append(list(shown))
    return results


def text_of(value) -> str:
    if isinstance(value, IPython.display.Markdown):
        return value.data
    table = getattr(value, "data", value)  # of a Styler
    return table.to_csv() if isinstance(table, pd.DataFrame) else ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Runs that differ in everything"
    return {seed: simulated_run(seed, folder=tmp_path_factory.mktemp("runs") / str(seed)).folder for seed in SEEDS}


@pytest.fixture(scope="module")
def outputs(folders):
    with pytest.MonkeyPatch.context() as patch:
        with ph.use_language("en"):  # a chapter sets its own; what it set ends here
            return {lang: [executed(path, folders[seed], patch) for seed in SEEDS] for lang, path in CHAPTERS.items()}


def numbers(text: str) -> list[str]:
    "Numbers of a text but for list markers, names of networks, link targets and what is constant by nature"
    text = re.sub(r"(?m)^\d+\. ", "", text)
    text = re.sub(r"slim-int8|float64|\]\([^)]*\)|batch \d+|95 %|95 %-й|1000 outputs|`[^`]*`", "", text)
    return re.findall(r"\$[^$]+\$|\d[\d,]*·10\^[^^]+\^|\d(?:[\d,.\u00a0]*\d)?", text)  # a power of ten is one number


def published() -> set[str]:
    "What the published lab reported, and what follows from it alone"
    values = [v for pair in tb.PUBLISHED.values() for v in pair if not isinstance(v, str)]
    before, after = tb.PUBLISHED["accuracy at inference"]
    derived = [ph.number(100 * (before - after), 1)]
    for key in ("model size (MB)", "inference time (s)"):
        derived.append(ph.significant(tb.PUBLISHED[key][1] / tb.PUBLISHED[key][0]))
    found = {ph.number(v) for v in values} | set(derived)
    return found | {text.replace(".", ",") for text in found}


@pytest.mark.parametrize("lang", CHAPTERS)
def test_another_run_changes_every_number_of_every_sentence(lang, outputs):
    constant = published() | {ph.number(100 * margin, 0) for margin in (0.02, 0.01)}
    sentences = checked = 0
    for number, cells in enumerate(zip(*outputs[lang])):
        texts = ["\n".join(v.data for v in cell if isinstance(v, IPython.display.Markdown)) for cell in cells]
        found = [numbers(text) for text in texts]
        if not any(found):
            continue
        sentences += 1
        assert len({len(f) for f in found}) == 1, f"cell {number}: the runs fill different gaps: {found}"
        for place in zip(*found):
            checked += 1
            assert len(set(place)) > 1 or place[0] in constant, f"cell {number}: {place[0]} in every run:\n{texts[0]}"
    assert sentences >= 8 and checked >= 40


@pytest.mark.parametrize("lang", CHAPTERS)
def test_another_run_changes_every_table_and_every_measured_cell(lang, outputs):
    tables = 0
    for cells in zip(*outputs[lang]):
        frames = [getattr(v, "data", v) for cell in cells for v in cell]
        frames = [f for f in frames if isinstance(f, pd.DataFrame)]
        if not frames:
            continue
        tables += 1
        assert len({f.to_csv() for f in frames}) == len(SEEDS)
        own = [c for c in frames[0].columns if c in MODELS]  # columns of measured networks
        for column in own:
            for row in range(min(map(len, frames))):
                cell = {f[column].iloc[row] for f in frames}
                assert len(cell) > 1 or cell <= {"1.00", "—"}, f"{column}, {frames[0].index[row]}: {cell} in every run"
    assert tables >= 5


@pytest.mark.parametrize("lang", CHAPTERS)
def test_every_labelled_cell_shows_one_thing_with_caption(lang, outputs):
    kinds = {"fig": matplotlib.figure.Figure, "tbl": (pd.DataFrame, pd.io.formats.style.Styler)}
    labels = []
    for source, shown in zip(sources(CHAPTERS[lang], "code"), outputs[lang][0]):
        label = re.search(r"^#\| label: (fig|tbl)-([\w-]+)$", source, re.M)
        if label:
            labels.append(label[0])
            assert len(shown) == 1 and isinstance(shown[0], kinds[label[1]]), label[0]
            assert f'{label[1]}-cap: "' in source and (label[1] == "tbl" or 'fig-alt: "' in source)
            assert "#| echo: false" in source, "a reader of results gets results, not plotting code"
    assert len(labels) == len(set(labels)) >= 12


def test_russian_numbers_have_decimal_commas(outputs):
    for cells in outputs["ru"]:
        for value in (v for cell in cells for v in cell):
            text = re.sub(r"`[^`]*`|chest_xray\.zip", "", text_of(value))
            if "pneumoprune lab" not in text:  # versions of programs are no numbers
                assert not re.search(r"\d\.\d", text), text


def test_synthetic_runs_say_so_and_real_ones_do_not(tmp_path, outputs, monkeypatch):
    real = simulated_run(9, models=MODELS[:3], synthetic=False, folder=tmp_path / "real").folder
    for lang, word in (("en", "phantoms"), ("ru", "фантомы")):
        made_up = "\n".join(text_of(v) for cell in outputs[lang][0] for v in cell)
        told = "\n".join(text_of(v) for cell in executed(CHAPTERS[lang], real, monkeypatch) for v in cell)
        assert word in made_up.lower() and word not in told.lower()
        assert "slim" not in told


def altered(folder: Path, target: Path, change) -> Path:
    "A run folder with another summary.json"
    target.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    summary = json.loads((target / "summary.json").read_text(encoding="utf-8"))
    change(summary)
    (target / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return target


@pytest.mark.parametrize("sign", [-1, 1])
def test_words_follow_the_sign(sign, folders, tmp_path, monkeypatch):
    def change(summary):
        comparison = summary["comparisons"]["masked"]
        verdict = "superior" if sign > 0 else "inferior"
        for metric in ("accuracy", "auc"):
            triple = [sign * 0.05, sign * 0.05 - 0.01, sign * 0.05 + 0.01]
            comparison["difference"][metric] = triple
            comparison["noninferiority"][metric] |= dict(zip(("difference", "low", "high"), triple)) | {
                "verdict": verdict
            }
        comparison["noninferiority"]["noninferior"] = sign > 0

    run = altered(folders[1], tmp_path / "run", change)
    times = pd.read_csv(run / "latency.csv")
    original = times[times["model"] == "original"].set_index(["batch", "threads", "repeat"])["milliseconds"]
    masked = times["model"] == "masked"
    keys = pd.MultiIndex.from_frame(times.loc[masked, ["batch", "threads", "repeat"]])
    times.loc[masked, "milliseconds"] = original.loc[keys].to_numpy() / 2**sign
    times.to_csv(run / "latency.csv", index=False)
    english, russian = (
        "\n".join(text_of(v) for cell in executed(CHAPTERS[lang], run, monkeypatch) for v in cell)
        for lang in ("en", "ru")
    )
    gained, lost = "accuracy gained 5.0 points and AUC gained", "accuracy lost 5.0 points and AUC lost"
    assert (gained in english) == (sign > 0) and (lost in english) == (sign < 0)
    assert ("masked is non-inferior to the original" in english) == (sign > 0)
    assert ("masked is inferior to the original in accuracy and AUC" in english) == (sign < 0)
    assert f"2.00 times {'faster' if sign > 0 else 'slower'} at batch 1" in english
    assert ("точность выросла на 5,0" in russian) == (sign > 0)
    assert ("Модель masked: не уступает исходной" in russian) == (sign > 0)
    assert ("Модель masked: уступает исходной по точности и по AUC" in russian) == (sign < 0)


def test_claim_answers_all_42_items_and_its_references_exist():
    text = "\n".join(sources(CHAPTERS["en"], "markdown"))
    table = text.split("## The CLAIM checklist")[1]
    rows = re.findall(r"(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", table)
    assert [int(row[0]) for row in rows[:42]] == list(range(1, 43))
    code = "\n".join(sources(CHAPTERS["en"], "code"))
    labels = set(re.findall(r"\{#((?:sec|tbl)-[\w-]+)\}", text)) | set(re.findall(r"#\| label: ([\w-]+)", code))
    used = set(re.findall(r"@((?:sec|tbl|fig)-[\w-]+)", text + code))
    assert used <= labels and {f"sec-results-{name}" for name in ("study", "failures", "limitations")} <= used
    for _, _, answer in rows:
        links = re.findall(r"\]\(([^)#]+)\)", answer)
        assert all((CHAPTERS["en"].parent / link).resolve().is_file() for link in links)
        assert (
            links
            or "@" in answer
            or re.search(r"not apply|Not (done|published|registered)|None|command|protocol", answer)
        ), answer
