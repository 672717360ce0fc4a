"The findings in English and Russian: executed against other runs, every number changes and the words follow the signs"

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from simulated import simulated_run

from pneumoprune.core import MODELS
from pneumoprune.evaluation import MARGINS
from pneumoprune.phrases import Markdown, number
from pneumoprune.report import _findings_of, _value
from pneumoprune.run import KERMANY
from pneumoprune.tables import PUBLISHED

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "nbs/findings"
ABSTRACT = "index.ipynb"
ENGLISH = [ABSTRACT, *(f"nbs/findings/{path.name}" for path in sorted(FINDINGS.glob("0*.ipynb")))]
RUSSIAN = [f"nbs/findings/ru/{path.name}" for path in sorted(FINDINGS.glob("ru/0*.ipynb"))]
CHAPTERS = [*ENGLISH, *RUSSIAN]
SEEDS = (1, 2, 3)
FIGURE = re.compile(r"^#\| label: fig-", re.M)


def sources(name: str, kind: str) -> list[str]:
    cells = json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def executed(name: str, run: Path, figures: bool = False) -> list:
    "What each code cell of a chapter shows, in order: text, tables, figures; without `figures` those are not drawn"
    names, results = {}, []
    with _findings_of(SimpleNamespace(folder=run), "en"):  # each chapter loads the run itself
        for source in sources(name, "code"):
            skipped = FIGURE.search(source) and not figures
            results.append(None if skipped else _value(source, name, names))
    return results


def text_of(value) -> str:
    return value if isinstance(value, Markdown) else value.to_csv() if isinstance(value, pd.DataFrame) else ""


def told(names: list[str], run: Path) -> str:
    return "\n".join(text_of(value) for name in names for value in executed(name, run))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Runs that differ in everything"
    return {seed: simulated_run(seed, folder=tmp_path_factory.mktemp("runs") / str(seed)).folder for seed in SEEDS}


@pytest.fixture(scope="module")
def outputs(folders):
    return {name: [executed(name, folders[seed]) for seed in SEEDS] for name in CHAPTERS}


def numbers(text: str) -> list[str]:
    "Numbers of a text but for list markers, names of networks, link targets and what is constant by nature"
    text = re.sub(r"(?m)^\d+\. ", "", text)
    text = re.sub(r"slim-int8|float64|float32|\]\([^)]*\)|batch \d+|95 %|95%-[ей]|1000 outputs", "", text)
    text = re.sub(r"`[^`]*`|CC BY 4.0|@[a-z]+\d+|SHA-256|пороге 0,5", "", text)
    return re.findall(r"\d[\d,.]*·10\^[^^]+\^|\d(?:[\d,.\u00a0]*\d)?", text)  # a power of ten is one number


def published() -> set[str]:
    "What the published study reported, and what follows from it alone"
    values = [v for pair in PUBLISHED.values() for v in pair if not isinstance(v, str)]
    (before, after), (slow, fast) = PUBLISHED["accuracy at inference"], PUBLISHED["inference time (s)"]
    small, large = PUBLISHED["model size (MB)"]
    derived = [number(100 * (before - after), 1), number(100 * fast / slow, 0), number(large / small, 2)]
    found = {number(v) for v in values} | set(derived) | {number(100 * margin, 0) for margin in MARGINS.values()}
    return found | {text.replace(".", ",") for text in found}


@pytest.mark.parametrize("name", CHAPTERS)
def test_another_run_changes_every_number_of_every_sentence(name, outputs):
    constant, checked = published(), 0
    for cell, values in enumerate(zip(*outputs[name])):
        texts = [value for value in values if isinstance(value, Markdown)]
        found = [numbers(text) for text in texts]
        if not any(found):
            continue
        assert len({len(numbers_) for numbers_ in found}) == 1, f"cell {cell}: other gaps in other runs: {found}"
        for place in zip(*found):
            checked += 1
            assert len(set(place)) > 1 or place[0] in constant, f"cell {cell}: {place[0]} in every run:\n{texts[0]}"
    assert checked >= {"01": 2, "05": 8}.get(Path(name).name[:2], 20)


@pytest.mark.parametrize("name", CHAPTERS)
def test_another_run_changes_every_table_and_every_measured_cell(name, outputs):
    for frames in zip(*outputs[name]):
        if not isinstance(frames[0], pd.DataFrame):
            continue
        assert len({frame.to_csv() for frame in frames}) == len(SEEDS)
        for column in [c for c in frames[0].columns if c in MODELS]:  # columns of measured networks
            for row in range(min(map(len, frames))):
                cell = {frame[column].iloc[row] for frame in frames}
                assert len(cell) > 1 or cell <= {"1.00", "—"}, f"{column}, {frames[0].index[row]}: {cell} in every run"


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_labelled_cell_has_a_caption_and_shows_no_code(name):
    for source in sources(name, "code"):
        label = re.search(r"^#\| label: (fig|tbl)-([\w-]+)$", source, re.M)
        assert "#| echo: false" in source or "#| hide" in source, "a reader of findings gets findings"
        if label:
            assert f'{label[1]}-cap: "' in source and (label[1] == "tbl" or 'fig-alt: "' in source)


def test_russian_numbers_have_decimal_commas(outputs):
    for value in (value for name in RUSSIAN for values in outputs[name] for value in values):
        text = re.sub(r"`[^`]*`|chest_xray\.zip", "", text_of(value))
        if "pneumoprune lab" not in text:  # versions of programs are no numbers
            assert not re.search(r"\d\.\d", text), text


def test_words_of_one_vocabulary(outputs):
    words = r"\b(pictures?|ill|healthy|rehearsal|minds?|asked|called)\b"
    for name in ENGLISH:
        text = "\n".join([*sources(name, "markdown"), *map(text_of, outputs[name][0])]).split("# The CLAIM")[0]
        assert not re.findall(words, text, re.I)


def test_faults_of_language_do_not_come_back(outputs):
    texts = {name: "\n".join(map(text_of, outputs[name][0])) for name in CHAPTERS}
    english, russian = ("\n".join(texts[name] for name in names) for names in (ENGLISH, RUSSIAN))
    assert not re.search(r"times slower|\b0 above|least minds|from a validation AUC of ([\d.]+) to \1\b", english)
    assert not re.search(r"95 %-|Одинаковых ответов|никто не читает|precision|compacted 0,0 мин|составило 0,", russian)


@pytest.mark.parametrize("names", [ENGLISH, RUSSIAN], ids=["en", "ru"])
def test_synthetic_runs_say_so_and_real_ones_do_not(names, outputs, tmp_path):
    real = simulated_run(9, models=MODELS[:3], synthetic=False, folder=tmp_path / "real").folder
    word = "фантом" if names is RUSSIAN else "phantom"
    text, people = told(names, real), r"children|hospital of|детей|больниц[ыа] в"
    for name in (name for name in names if Path(name).name[:2] in ("in", "02", "03", "04")):
        made_up = "\n".join(map(text_of, outputs[name][0]))
        assert word in made_up.lower() and not re.search(people, made_up.split("Аннотация")[0]), name
    assert word not in re.sub(r"`[^`]*`", "", text).lower() and "slim" not in text
    # whose images they are is said of the known archive alone
    known = altered(real, tmp_path / "known", "run.json", lambda info: info["data"].update(fingerprint=KERMANY))
    whose = r"from one to five years|от одного года до пяти лет"
    assert not re.search(whose, text) and re.search(whose, told(names, known))


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
def test_words_follow_the_sign(sign, folders, tmp_path):
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
    english, russian = told(ENGLISH[3:5], run), told(RUSSIAN[2:4], run)
    for verb, right in (("rises", sign > 0), ("falls", sign < 0)):
        assert (f"Here, accuracy {verb} by 5.0 points, which the choice of patients does not" in english) == right
    assert ("The network masked is non-inferior to the original" in english) == (sign > 0)
    assert ("The network masked is inferior to the original in accuracy and AUC" in english) == (sign < 0)
    assert f"masked {'is 2.00 times as fast' if sign > 0 else 'takes 2.00 times as long'}" in english
    assert f"First hypothesis {'does not hold in full' if sign > 0 else 'holds'}".lower() in english.lower()
    assert ("точность повышается на 5,0" in russian) == (sign > 0)
    assert ("Модель masked не уступает исходной" in russian) == (sign > 0)
    assert ("Модель masked уступает исходной по точности и по AUC" in russian) == (sign < 0)


def test_a_smoke_run_and_a_budget_are_named(folders, outputs, tmp_path):
    def change(info):
        info["settings"]["conv"] = [8, 8, 8, 8, 8]
        info["settings"]["slim"]["max_macs"] = 14_000_000

    run = altered(folders[1], tmp_path / "run", "run.json", change)
    for names, smoke, budget in (
        (ENGLISH, "A smoke run", "a budget of at most 14,000,000 multiply"),
        (RUSSIAN, "Пробный запуск", "не более 14\u00a0000\u00a0000 умножений"),
    ):
        assert smoke in (text := told(names, run)) and budget in text
        before = "\n".join(text_of(value) for name in names for value in outputs[name][0])
        assert smoke not in before and budget not in before


@pytest.mark.parametrize("names", [ENGLISH, RUSSIAN], ids=["en", "ru"])
def test_claim_answers_all_42_items(names):
    [text] = [text for text in sources(names[-1], "markdown") if "@mongan2020" in text]
    rows = re.findall(r"(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", text)
    assert [int(row[0]) for row in rows] == list(range(1, 43))
    assert len(re.findall(r"(?m)^\| \d+ \(2024\) \|", text)) == 5


def test_several_seeds_are_told_and_decide(folders, tmp_path):
    "Where there are several seeds, sentences tell their mean, and the verdict over them is the one told"

    def change(summary):
        metrics = {metric: [0.1234, 0.1, 0.2] for metric in summary["models"]["original"]["test"]}
        parts = summary["models"]["original"].keys() & {"validation", "test", "external"}
        each = {"test": {metric: [0.1, 0.1234, 0.2] for metric in metrics}}
        verdict = {"difference": 0.01, "low": -0.05, "high": 0.07, "margin": 0.02, "verdict": "inconclusive"}
        verdicts = {"accuracy": verdict, "auc": verdict, "noninferior": False}
        comparison = {"each": {"accuracy": [0.1, 0.0, 0.0], "auc": [0.0, 0.0, 0.1]}, "noninferiority": verdicts}
        summary["seeds"] = {
            "count": 3,
            "models": {name: dict.fromkeys(parts, metrics) | {"each": each} for name in summary["models"]},
            "comparisons": dict.fromkeys(list(summary["models"])[1:], comparison),
        }

    run = altered(folders[1], tmp_path / "run", "summary.json", change)
    for names, mean, verdict in (
        (ENGLISH, "mean accuracy of 0.123 [0.100, 0.200]", "is not shown to be non-inferior to the original"),
        (RUSSIAN, "0,123 [0,100; 0,200]", "может уступать исходной по точности"),
    ):
        text = told(names, run)
        assert text.count(mean) >= 2 and verdict in text
        assert "no network" in text or "ни одна из сетей" in text
