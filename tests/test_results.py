"The findings in English and Russian: executed against other runs, every number changes and the words follow the signs"

import ast
import json
import re
from pathlib import Path

import IPython.display
import matplotlib.figure
import pandas as pd
import pytest
from simulated import simulated_run

from pneumoprune.core import MODELS, figure_style
from pneumoprune.figures import flow
from pneumoprune.phrases import number, use_language
from pneumoprune.run import load_run
from pneumoprune.tables import PUBLISHED

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "nbs/findings"
CHAPTERS = {
    "abstract": FINDINGS / "abstract.ipynb",
    "results": FINDINGS / "results.ipynb",
    "otchet": FINDINGS / "ru/otchet.ipynb",
}
LANGUAGE = {"abstract": "en", "results": "en", "otchet": "ru"}
SEEDS = (1, 2, 3)
FIGURE = re.compile(r"^#\| label: fig-", re.M)


def sources(name: str, kind: str) -> list[str]:
    cells = json.loads(CHAPTERS[name].read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def executed(name: str, run: Path, monkeypatch, figures: bool = False) -> list:
    "What each code cell of a chapter shows, in order: Markdown, tables, figures; without `figures` those are not drawn"
    monkeypatch.setenv("PNEUMOPRUNE_RUN", str(run))
    monkeypatch.chdir(CHAPTERS[name].parent)
    names, results = {}, []
    with use_language("en"):
        for source in sources(name, "code"):
            results.append(None)
            if FIGURE.search(source) and not figures:
                continue
            tree = ast.parse(source)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), names)
            if last is not None:
                results[-1] = eval(compile(ast.Expression(last.value), name, "eval"), names)
    return [getattr(value, "data", value) if hasattr(value, "hide") else value for value in results]  # of a Styler


def text_of(value) -> str:
    if isinstance(value, IPython.display.Markdown):
        return value.data
    return value.to_csv() if isinstance(value, pd.DataFrame) else ""


def told(name: str, run: Path, monkeypatch) -> str:
    return "\n".join(map(text_of, executed(name, run, monkeypatch)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Runs that differ in everything"
    return {seed: simulated_run(seed, folder=tmp_path_factory.mktemp("runs") / str(seed)).folder for seed in SEEDS}


@pytest.fixture(scope="module")
def outputs(folders):
    with pytest.MonkeyPatch.context() as patch:
        return {
            name: [executed(name, folders[seed], patch, figures=seed == SEEDS[0]) for seed in SEEDS]
            for name in CHAPTERS
        }


def numbers(text: str) -> list[str]:
    "Numbers of a text but for list markers, names of networks, link targets and what is constant by nature"
    text = re.sub(r"(?m)^\d+\. ", "", text)
    text = re.sub(r"slim-int8|float64|float32|\]\([^)]*\)|batch \d+|95 %|95%-й|1000 outputs|`[^`]*`", "", text)
    return re.findall(r"\$[^$]+\$|\d[\d,]*·10\^[^^]+\^|\d(?:[\d,.\u00a0]*\d)?", text)  # a power of ten is one number


def published() -> set[str]:
    "What the published study reported, and what follows from it alone"
    values = [v for pair in PUBLISHED.values() for v in pair if not isinstance(v, str)]
    (before, after), (slow, fast) = PUBLISHED["accuracy at inference"], PUBLISHED["inference time (s)"]
    small, large = PUBLISHED["model size (MB)"]
    derived = [number(100 * (before - after), 1), number(100 * fast / slow, 0), number(large / small, 2)]
    found = {number(v) for v in values} | set(derived)
    return found | {text.replace(".", ",") for text in found}


@pytest.mark.parametrize("name", CHAPTERS)
def test_another_run_changes_every_number_of_every_sentence(name, outputs):
    constant = published() | {number(100 * margin, 0) for margin in (0.02, 0.01)}
    sentences = checked = 0
    for cell, values in enumerate(zip(*outputs[name])):
        texts = [text_of(v) for v in values if isinstance(v, IPython.display.Markdown)]
        found = [numbers(text) for text in texts]
        if not any(found):
            continue
        sentences += 1
        assert len({len(f) for f in found}) == 1, f"cell {cell}: the runs fill different gaps: {found}"
        for place in zip(*found):
            checked += 1
            assert len(set(place)) > 1 or place[0] in constant, f"cell {cell}: {place[0]} in every run:\n{texts[0]}"
    assert checked >= 40 and sentences >= {"abstract": 1, "results": 15, "otchet": 8}[name]


@pytest.mark.parametrize("name", CHAPTERS)
def test_another_run_changes_every_table_and_every_measured_cell(name, outputs):
    tables = 0
    for frames in zip(*outputs[name]):
        if not isinstance(frames[0], pd.DataFrame):
            continue
        tables += 1
        assert len({frame.to_csv() for frame in frames}) == len(SEEDS)
        for column in [c for c in frames[0].columns if c in MODELS]:  # columns of measured networks
            for row in range(min(map(len, frames))):
                cell = {frame[column].iloc[row] for frame in frames}
                assert len(cell) > 1 or cell <= {"1.00", "—"}, f"{column}, {frames[0].index[row]}: {cell} in every run"
    assert tables >= {"abstract": 1, "results": 12, "otchet": 5}[name]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_labelled_cell_shows_one_thing_with_caption(name, outputs):
    kinds = {"fig": matplotlib.figure.Figure, "tbl": pd.DataFrame}
    labels = []
    for source, shown in zip(sources(name, "code"), outputs[name][0]):
        label = re.search(r"^#\| label: (fig|tbl)-([\w-]+)$", source, re.M)
        if label:
            labels.append(label[0])
            assert isinstance(shown, kinds[label[1]]), label[0]
            assert f'{label[1]}-cap: "' in source and (label[1] == "tbl" or 'fig-alt: "' in source)
            assert "#| echo: false" in source, "a reader of results gets results, not plotting code"
    assert len(labels) == len(set(labels)) >= {"abstract": 1, "results": 20, "otchet": 14}[name]


def test_every_figure_and_table_of_the_russian_report_is_cited_and_every_citation_has_a_target():
    text = "\n".join(sources("otchet", "markdown") + sources("otchet", "code"))
    labels = set(re.findall(r"#\| label: ([\w-]+)", text))
    assert labels - set(re.findall(r"@((?:fig|tbl)-[\w-]+)", text)) <= {"tbl-otchet-reproduce"}
    assert set(re.findall(r"@((?:fig|tbl)-[\w-]+)", text)) <= labels


def test_russian_numbers_have_decimal_commas(outputs):
    for values in outputs["otchet"]:
        for value in values:
            text = re.sub(r"`[^`]*`|chest_xray\.zip", "", text_of(value))
            if "pneumoprune lab" not in text:  # versions of programs are no numbers
                assert not re.search(r"\d\.\d", text), text


def test_words_of_one_vocabulary(outputs):
    words = r"\b(pictures?|ill|healthy|rehearsal|minds?|asked|called)\b"
    for name in ("abstract", "results"):
        text = "\n".join([*sources(name, "markdown"), *map(text_of, outputs[name][0])]).split("## The CLAIM")[0]
        assert not re.findall(words, text, re.I)


@pytest.mark.parametrize("name", CHAPTERS)
def test_synthetic_runs_say_so_and_real_ones_do_not(name, outputs, tmp_path, monkeypatch):
    real = simulated_run(9, models=MODELS[:3], synthetic=False, folder=tmp_path / "real").folder
    word = "фантом" if LANGUAGE[name] == "ru" else "phantom"
    made_up, text = "\n".join(map(text_of, outputs[name][0])), told(name, real, monkeypatch)
    assert word in made_up.lower() and word not in text.lower()
    assert "slim" not in text


def altered(folder: Path, target: Path, file: str, change) -> Path:
    "A run folder with another summary.json or run.json"
    target.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    found = json.loads((target / file).read_text(encoding="utf-8"))
    change(found)
    (target / file).write_text(json.dumps(found), encoding="utf-8")
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

    run = altered(folders[1], tmp_path / "run", "summary.json", change)
    times = pd.read_csv(run / "latency.csv")
    original = times[times["model"] == "original"].set_index(["batch", "threads", "repeat"])["milliseconds"]
    masked = times["model"] == "masked"
    keys = pd.MultiIndex.from_frame(times.loc[masked, ["batch", "threads", "repeat"]])
    times.loc[masked, "milliseconds"] = original.loc[keys].to_numpy() / 2**sign
    times.to_csv(run / "latency.csv", index=False)
    english, russian = (told(name, run, monkeypatch) for name in ("results", "otchet"))
    for verb, right in (("rises", sign > 0), ("falls", sign < 0)):
        assert (f"Here, accuracy {verb} by 5.0 points, more than the choice of patients explains" in english) == right
    assert ("The network masked is non-inferior to the original" in english) == (sign > 0)
    assert ("The network masked is inferior to the original in accuracy and AUC" in english) == (sign < 0)
    assert f"masked {'is 2.00 times as fast' if sign > 0 else 'takes 2.00 times as long'}" in english
    assert f"First hypothesis {'does not hold in full' if sign > 0 else 'holds'}".lower() in english.lower()
    assert ("точность повышается на 5,0" in russian) == (sign > 0)
    assert ("Модель masked не уступает исходной" in russian) == (sign > 0)
    assert ("Модель masked уступает исходной по точности и по AUC" in russian) == (sign < 0)


def test_a_smoke_run_and_a_budget_are_named(folders, tmp_path, monkeypatch):
    def change(info):
        info["settings"]["conv"] = [8, 8, 8, 8, 8]
        info["settings"]["slim"]["max_macs"] = 14_000_000

    run = altered(folders[1], tmp_path / "run", "run.json", change)
    for name, smoke, budget in (
        ("abstract", "A smoke run", "down to a budget"),
        ("results", "A smoke run", "a budget of at most 14,000,000 multiply"),
        ("otchet", "Пробный запуск", "не более 14\u00a0000\u00a0000 умножений"),
    ):
        assert smoke in (text := told(name, run, monkeypatch)) and budget in text
        assert smoke not in (text := told(name, folders[1], monkeypatch)) and budget not in text


def test_claim_answers_all_42_items_and_its_references_exist():
    text = "\n".join(sources("results", "markdown"))
    table = text.split("## The CLAIM checklist")[1]
    rows = re.findall(r"(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", table)
    assert [int(row[0]) for row in rows[:42]] == list(range(1, 43))
    code = "\n".join(sources("results", "code"))
    everything = "\n".join(cell for name in CHAPTERS for kind in ("markdown", "code") for cell in sources(name, kind))
    labels = set(re.findall(r"\{#((?:sec|tbl)-[\w-]+)[ }]", everything))
    labels |= set(re.findall(r"#\| label: ([\w-]+)", everything))
    used = set(re.findall(r"@((?:sec|tbl|fig)-[\w-]+)", text + code))
    assert used <= labels and {f"sec-results-{name}" for name in ("study", "failures", "limitations")} <= used
    for _, _, answer in rows:
        links = re.findall(r"\]\(([^)#]+)\)", answer)
        assert all((FINDINGS / link).is_file() for link in links)
        assert (
            links
            or "@" in answer
            or re.search(r"not apply|Not (done|published|registered)|None|command|protocol", answer)
        ), answer


@pytest.mark.parametrize("name", ["results", "otchet"])
def test_text_of_a_run_is_shown_as_text(name, folders, tmp_path, monkeypatch):
    file = "a`</b>`$b$ <script>x</script>.zip"
    named = lambda info: info["data"].update(name=file, synthetic=False)
    run = altered(folders[1], tmp_path / "run", "run.json", named)
    predictions = pd.read_csv(run / "predictions.csv")
    predictions["name"] = "<b>" + predictions["name"].str.replace("/", "_") + "$x$"
    predictions.to_csv(run / "predictions.csv", index=False)
    monkeypatch.setenv("PNEUMOPRUNE_RUN", str(run))
    monkeypatch.chdir(CHAPTERS[name].parent)
    assert f"``{file}``" in told(name, run, monkeypatch)
    with pd.option_context("styler.format.escape", None):
        figure_style()  # as each chapter does
        html = load_run(run).predictions[["name"]].head().style.to_html()
        assert "&lt;b&gt;" in html and "<b>" not in html
    flow(load_run(run)).canvas.draw()
