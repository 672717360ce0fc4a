"The report as a reader gets it: a stranger's run is rendered in both languages, and PDF and HTML are read back"

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pypdf import PdfReader
from pypdf.generic import DictionaryObject
from simulated import simulated_run

from pneumoprune import __version__
from pneumoprune.core import MODELS
from pneumoprune.phrases import interval, number, overall, significant
from pneumoprune.report import _WORDS as WORDS
from pneumoprune.report import ReportError, render_report
from pneumoprune.run import curve_noise, load_run, same_view, shortcut_auc

ROOT = Path(__file__).resolve().parents[1]
SECRET = "TOP-SECRET-OF-THE-READER"


def hostile(folder: Path) -> Path:
    "A run folder whose every text means mischief"
    secret = folder.parent / "secret.txt"
    secret.write_text(SECRET)
    html = f'<script>alert(1)</script> [click](javascript:alert(2)) <embed src="{secret}"> ![x]({secret})'
    typst = '`#text("INJ" + str(20+22))`{=typst} #eval("20+22") #read("metadata.json") $x$ \\input{x} @fig-none'
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    info["data"]["name"] = f"x` {html} {typst} `y.zip"
    info["cpu"], info["versions"]["torch"] = html, typst
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["guard"] = {"refused": {"val": 0.01, "test": 0.02, "external": 0.2, "other": 0.97}, "others": {html: 1.0}}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    for path in [*folder.rglob("predictions.csv"), folder / "shortcuts.csv"]:
        table = pd.read_csv(path)
        table["name"] = "</td>" + table["name"].str.replace("/", "_") + "<b>#eval(1)$x$"
        if "patient" in table:
            table["patient"] = "<i>" + table["patient"]
        table.to_csv(path, index=False)
    predictions = pd.read_csv(folder / "predictions.csv")
    elsewhere = predictions.loc[predictions["split"] == "external", ["name"]]
    elsewhere.assign(view=["AP", html] * (len(elsewhere) // 2)).to_csv(folder / "external.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("report") / "run"
    return hostile(simulated_run(5, seeds=3, external=True, folder=place).folder)


@pytest.fixture(scope="module", params=["en", "ru"])
def pdf(request, folder) -> Path:
    "The report of that run, as PDF and HTML"
    return render_report(folder, folder.parent / f"{request.param}.pdf", lang=request.param, html=True)


@pytest.fixture(scope="module")
def pages(pdf) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in PdfReader(pdf).pages]


@pytest.fixture(scope="module")
def page(pdf) -> str:
    return pdf.with_suffix(".html").read_text(encoding="utf-8")


def dictionaries(reader: PdfReader):
    "Every dictionary object of a PDF"
    for place in range(1, len(reader.xref_objStm) + sum(map(len, reader.xref.values())) + 1):
        value = reader.get_object(place)
        if isinstance(value, DictionaryObject):
            yield value


def labels(lang: str) -> list[str]:
    "Every figure and table that the notebooks of a language label"
    profile = yaml.safe_load((ROOT / f"_quarto-{lang}.yml").read_text(encoding="utf-8"))["book"]
    found = []
    for name in [*profile["chapters"], *profile["appendices"]]:
        found += re.findall(r"(?:#\| label: |\{#)((?:fig|tbl)-[\w-]+)", (ROOT / name).read_text(encoding="utf-8"))
    other = {"en": "tbl-headline-ru", "ru": "tbl-headline"}[lang]
    return [label for label in found if label != other]


def absent(folder: Path) -> set[str]:
    "Tables that this run gives no reason for"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    elsewhere = "external" in summary["models"]["original"]
    present = {
        "tbl-shortcuts": (folder / "shortcuts.csv").is_file(),
        "tbl-seeds": "seeds" in summary,
        "tbl-external": elsewhere,
        "tbl-guard": "guard" in summary,
    }
    return {label for label, there in present.items() if not there}


def test_it_is_short_and_its_findings_come_first(pdf, pages):
    least, most = {"en": (15, 30), "ru": (11, 15)}[pdf.stem]
    assert least <= len(pages) <= most
    caption = {"en": "Confusion matrices on", "ru": "Матрицы ошибок на"}[pdf.stem]
    assert [place for place, text in enumerate(pages, 1) if caption in text][0] < 15


def test_the_first_page_identifies_the_run(pdf, pages, folder):
    first, run = pages[0], load_run(folder)
    assert f"pneumoprune {__version__}" in first
    assert {"en": "no medical device", "ru": "не медицинское изделие"}[pdf.stem] in first
    assert WORDS[pdf.stem]["phantoms"] in first
    for name in MODELS:
        value = number(overall(run, name, "accuracy")[0])
        assert (value if pdf.stem == "en" else value.replace(".", ",")) in first, name


def test_no_listing_but_the_recipe_and_its_answer(page):
    listings = re.findall(r"<pre.*?</pre>", page, re.S)
    assert len(listings) == 2 and "ln_structured" in listings[0]
    assert "compact" in listings[1] and listings[1].count("\n") == 0


def test_every_figure_and_table_is_there_and_numbered_once(pdf, page, folder):
    ids = re.findall(r'<figure id="((?:fig|tbl)-[\w-]+)"', page)
    assert ids == [label for label in labels(pdf.stem) if label not in absent(folder)]
    assert len(ids) == len(set(ids))
    words = WORDS[pdf.stem]
    for kind in ("fig", "tbl"):
        captions = re.findall(rf"<figcaption>{words[kind]}\u00a0([\w.]+?){re.escape(words['stop'])} ", page)
        assert len(captions) == len(set(captions)) == sum(label.startswith(kind) for label in ids)
    assert not [leak for leak in ("?@", ":::", "@tbl-", "@sec-", "#| ", "?meta") if leak in page]


def test_the_russian_report_has_every_figure_and_table_of_the_english_one():
    english, russian = ({label.removesuffix("-ru") for label in labels(lang)} for lang in ("en", "ru"))
    assert english == russian


def test_every_figure_and_table_is_cited(pdf, page, folder):
    cited = set(re.findall(r'href="#((?:fig|tbl)-[\w-]+)"', page))
    assert set(labels(pdf.stem)) - cited <= {"tbl-headline", "tbl-headline-ru"} | absent(folder)


def test_every_interval_is_one_of_the_run(pdf, pages, folder):
    if pdf.stem == "ru":
        return  # the same functions print it
    run = load_run(folder)
    known = set()

    def add(value):
        if isinstance(value, dict):
            for inner in value.values():
                add(inner)
        elif isinstance(value, list) and len(value) == 3 and not isinstance(value[0], (str, list, dict)):
            known.update(interval(value, digits) for digits in (1, 3))
            known.update(interval([100 * v for v in value], digits, signed=True) for digits in (1, 2))

    add(run.summary)
    judged = [run.summary["comparisons"], run.summary.get("seeds", {}).get("comparisons", {})]
    for verdicts in (comparison["noninferiority"] for told in judged for comparison in told.values()):
        add({m: [verdicts[m][key] for key in ("difference", "low", "high")] for m in ("accuracy", "auc")})
    known.add(interval(same_view(run, run.models[-1])))
    known |= {interval(shortcut_auc(run, split=split)) for split in ("val", "test")}
    for name in run.models:
        noise = curve_noise(run, name)
        known |= {interval(noise["accuracy"], 2), interval(noise["loss"], 4)}
    quartiles = run.latency.groupby(["model", "engine", "batch", "threads"])["milliseconds"].quantile([0.25, 0.5, 0.75])
    for low, middle, high in quartiles.unstack().itertuples(index=False):
        known.add(f"{significant(middle)} [{significant(low)}, {significant(high)}]")
    text = " ".join(pages)
    found = re.findall(r"[−+]?[\d.,]*\d \[[−+]?[\d.,]*\d, [−+]?[\d.,]*\d\]", text)
    assert len(found) > 150
    assert not [one for one in found if one not in known]


def saved_outputs(notebook: Path) -> list[list[dict]]:
    "What each code cell shows, as the file has it"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def test_another_run_has_other_numbers(pdf, page):
    "No interval of the committed run, which the notebooks' saved outputs show, stands in the report of this one"
    profile = yaml.safe_load((ROOT / f"_quarto-{pdf.stem}.yml").read_text(encoding="utf-8"))["book"]
    chapters = [ROOT / name for name in [*profile["chapters"], *profile["appendices"]] if name.endswith(".ipynb")]
    outputs = [output for path in chapters for shown in saved_outputs(path) for output in shown]
    saved = "".join(line for output in outputs for line in output.get("data", {}).get("text/plain", []))
    interval_ = r"[−+]?[\d.,]+ \[[−+]?[\d.,]+[,;] [−+]?[\d.,]+\]"
    of_reference = set(re.findall(interval_, saved))
    assert len(of_reference) > 100 and not of_reference & set(re.findall(interval_, page))


def test_letters_in_figures_are_seven_points_or_more(pdf, page):
    design = (ROOT / "report/typst-show.typ").read_text(encoding="utf-8")
    [compact] = re.findall(r"#let shrink = \$if\(compact\)\$([\d.]+)\$", design)
    drawn = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", page)]
    assert drawn and min(drawn) * (float(compact) if pdf.stem == "ru" else 1) >= 7


def test_pdf_ua_language_title_and_alternatives(pdf):
    reader = PdfReader(pdf)
    root, objects = reader.trailer["/Root"], list(dictionaries(reader))
    assert b"pdfuaid:part" in root["/Metadata"].get_object().get_data()
    assert root["/Lang"].startswith(pdf.stem) and root["/ViewerPreferences"]["/DisplayDocTitle"]
    assert reader.metadata.title == {"en": "Pruning AlexNet", "ru": "Прунинг AlexNet"}[pdf.stem]
    figures = sum(label.startswith("fig-") for label in labels(pdf.stem))
    assert sum("/Alt" in entry and entry.get("/S") == "/Figure" for entry in objects) == figures
    fonts = [entry for entry in objects if entry.get("/Type") == "/FontDescriptor"]
    assert fonts and all({"/FontFile", "/FontFile2", "/FontFile3"} & set(entry) for entry in fonts)
    names = {str(entry["/FontName"]).split("+")[-1].split("-")[0] for entry in objects if "/FontName" in entry}
    assert names <= {"LibertinusSerif", "DejaVuSansMono", "DejaVuSans"}  # no letter had to be borrowed elsewhere
    assert not [entry for entry in objects if entry.get("/Subtype") == "/Image"], "figures are drawings, not pixels"


def test_figures_can_be_searched(pdf, pages, page):
    words = {"en": "false positive rate", "ru": "доля ложных тревог"}[pdf.stem]
    assert words in " ".join(pages) and words in page


def test_links_lead_to_https_or_into_the_document(pdf, page):
    notes = [note.get_object() for sheet in PdfReader(pdf).pages for note in sheet.get("/Annots", [])]
    links = [note["/A"].get_object() for note in notes if "/A" in note]
    uris = [str(link["/URI"]) for link in links if "/URI" in link]
    assert uris and all(uri.startswith("https://") for uri in uris)
    assert f'href="{pdf.name}"' in page, "the page leads to the PDF"
    links = set(re.findall(r'href="([^"]*)"', page)) - {pdf.name}
    assert all(re.match(r"#|https://", link) for link in links)
    assert not re.findall(r"<(?:link|script|iframe)\b|@import|url\((?!#)", page), "nor does it ask for anything"
    assert not re.findall(r"<[^>]*\ssrc=", page), "the page has everything in it"
    targets, ids = set(re.findall(r'href="#([^"]*)"', page)), set(re.findall(r'\sid="([^"]*)"', page))
    assert targets <= ids


def test_text_of_a_run_is_shown_and_does_nothing(pdf, pages, page):
    text = " ".join(pages)
    live = r"<script|<embed|<b>|<i>|</td>IM|javascript:alert\(2\)\"|<img"
    assert not re.search(live, re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    assert SECRET not in page and SECRET not in text and "INJ42" not in text and "INJ42" not in page
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" in text
    assert '#text("INJ"' in text and "#eval(" in text and "<b>#eval(1)$x$" in text.replace(" ", "")


def test_phantoms_are_marked_inside_every_table_and_figure(pdf, page):
    mark = WORDS[pdf.stem]["phantoms mark"]
    tables = re.findall(r"<figure id=\"tbl-.*?</figure>", page, re.S)
    made = [table for table in tables if 'id="tbl-claim' not in table]
    assert all(f"({mark})" in table for table in made) and len(made) > 12
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert drawn and all(mark in re.sub(r"<[^>]+>", "", svg) for svg in drawn)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"run": "nowhere"}, "There is no run folder nowhere"),
        ({"lang": "de"}, "no report in the language 'de'; choose one of: en, ru"),
        ({"output": "report.docx"}, "give report.docx the ending .pdf"),
    ],
)
def test_errors_name_the_remedy(folder, tmp_path, options, message):
    with pytest.raises(ReportError, match=re.escape(message)):
        render_report(**{"run": folder, "output": tmp_path / "x.pdf", **options})


def test_a_run_that_lacks_something_is_named_with_the_cell(folder, tmp_path):
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del summary["models"]["slim"]["file_mb"]
    for path in folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(ReportError, match=r"index\.ipynb, cell \d+, failed with the run .*'file_mb'"):
        render_report(tmp_path, tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()


def test_profiles_of_quarto():
    "What pneumoprune reads is what Quarto reads, and every chapter is in the book"
    profiles = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob("_quarto*.yml")}
    common, book = profiles.pop("_quarto"), profiles["_quarto-book"]
    assert common["profile"] == {"default": "en"} and not common["execute"]["enabled"]
    for profile in profiles.values():
        listed = [*profile["book"]["chapters"], *profile["book"].get("appendices", [])]
        files = [part for entry in listed for part in (entry["chapters"] if isinstance(entry, dict) else [entry])]
        assert files[0] == "index.ipynb" and all((ROOT / file).is_file() for file in files)
    output = [profile["project"]["output-dir"] for profile in profiles.values()]
    assert len(output) == len(set(output))
    written = json.dumps(book)
    assert all(f"nbs/{path.name}" in written for path in ROOT.glob("nbs/*.ipynb"))
    assert all(f"nbs/findings/{path.name}" in written for path in ROOT.glob("nbs/findings/*.ipynb"))


def filtered(cells: list) -> list:
    "Cells after the filter that Quarto runs on notebooks"
    program = [sys.executable, "-I", ROOT / "report/strip_directives.py"]
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    done = subprocess.run(program, input=text, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)["cells"]


def code(source: str, outputs=()) -> dict:
    "A code cell as Jupyter writes it"
    lines = source.splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "source": lines, "outputs": list(outputs)}


def markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source.splitlines(keepends=True)}


def printed(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}


def shown(html: str) -> list:
    return [{"output_type": "display_data", "metadata": {}, "data": {"text/html": html.splitlines(keepends=True)}}]


FRAME = pd.DataFrame({"parameters": [61_100_840, 2_345], "file": ["a.onnx", "b.onnx"]}, index=["original", "slim"])


def test_filter_is_a_program_of_its_own():
    cells = [
        code("#| hide\nx"),
        code("#| export\n#|exporti\n# | label: fig-a\n#| echo: false\n\ny = '''\n#| hide\n'''"),
        code("#| hide_input\nz"),
        code("bar()", [printed("10 %\r50 %\r100 %\n")]),
        markdown("a\nb"),
    ]
    kept = filtered(cells)
    assert [cell["source"] for cell in kept] == [
        ["#| label: fig-a\n", "#| echo: false\n", "y = '''\n", "#| hide\n", "'''"],
        ["#| echo: false\n", "z"],
        ["bar()"],
        ["a\n", "b"],
    ]
    assert kept[2]["outputs"][0]["text"] == ["100 %\n"]


def test_exported_code_is_abridged():
    helper = "def _helper(x):\n    'What it does'\n" + "".join(f"    x = x + {n}\n" for n in range(20))
    public = helper.replace("_helper", "public")
    bare = "@decorated\n" + helper.replace("    'What it does'\n", "").replace("_helper", "_bare")
    source = f"#| export\nimport os\nfrom a import (\n    b,\n)\n\n\n{helper}\n\n{public}\n\n{bare}"
    cells = [code("#| default_exp part"), code(source), code("#| export\nimport sys")]
    [cell] = filtered(cells)  # a cell of imports alone is gone
    remark = "    # … 20 more lines in pneumoprune/part.py\n"
    expected = f"def _helper(x):\n    'What it does'\n{remark}\n{public}\n@decorated\ndef _bare(x):\n{remark}"
    assert "".join(cell["source"]).strip() == expected.strip()


def test_printed_pieces_are_joined_and_tables_made_fit_for_print():
    frame = pd.DataFrame({"n": [1]}, index=pd.Index(["= used"], name="step"))
    pieces = [printed(text) for text in ("a\n", "b\n")]
    cells = filtered(
        [
            code("x", pieces),
            code("x", shown(frame.to_html())),
            code("x", shown(frame.style.set_caption("own").to_html())),
            code("x", shown(FRAME.T.to_html())),
        ]
    )
    assert [output["text"] for output in cells[0]["outputs"]] == [["a\n", "b\n"]]
    for cell in cells[1:3]:
        html = cell["outputs"][0]["data"]["text/markdown"]
        head = html.split("<thead>")[1].split("</thead>")[0]
        assert head.count("<tr") == 1 and re.findall(r"<th[^>]*>(.*?)</th>", head) == ["step", "n"]
        assert "\u2060= used" in html and "own" not in html
    plain = FRAME.T.to_html().replace(' style="text-align: right;"', "")  # the templates align columns, not pandas
    assert cells[3]["outputs"][0]["data"]["text/markdown"] == f"```{{=html}}\n{plain}\n```"
    assert not [cell for cell in cells[1:] if "text/html" in cell["outputs"][0]["data"]], "Quarto would load scripts"


def execute(notebook: str, target: str) -> None:
    "As Jupyter does, without the seconds that it takes to start"
    from execnb.shell import CaptureShell

    os.chdir(Path(notebook).parent)
    pd.set_option("display.max_columns", 20)  # as pandas has it where it finds Jupyter
    CaptureShell().execute(notebook, target, exc_stop=True)


def test_a_chapter_executed_again_changes_nothing(attempt, tmp_path):
    "Outputs hold no times, random names or dates"
    source, target = ROOT / "index.ipynb", tmp_path / "index.ipynb"
    ended = attempt([source, target], tmp_path, call="test_report:execute")
    assert ended.code == 0, ended.err
    saved, again = saved_outputs(source), saved_outputs(target)
    for output in (output for cell in (*saved, *again) for output in cell):
        output.pop("execution_count", None)
        output.pop("metadata", None)
    assert saved == again and any(saved)
