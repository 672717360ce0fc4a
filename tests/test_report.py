"""The report as a reader gets it: a small book is rendered without Quarto and the finished PDF is read back."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from pneumoprune.report import _WORDS as WORDS
from pneumoprune.report import ReportError, _read_book, render_report

ROOT = Path(__file__).resolve().parents[1]


def svg_of_a_line() -> str:
    import io

    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2, 3])
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    return buffer.getvalue()


def shown(**data) -> list:
    names = {"svg": "image/svg+xml", "html": "text/html", "md": "text/markdown", "text": "text/plain"}
    return [new_output("display_data", {names[key]: value for key, value in data.items()})]


FRAME = pd.DataFrame({"parameters": [61_100_840, 2_345], "file": ["a.onnx", "b.onnx"]}, index=["original", "slim"])

DATA = [
    new_markdown_cell("# Data {#sec-data}\n\n> X-rays\n\nShown in @fig-data-line, counted in @tbl-data-md."),
    new_code_cell("#| default_exp data"),
    new_code_cell("#| hide\nimport secret_of_the_house"),
    new_code_cell(
        '#| export\n#| label: fig-data-line\n#| fig-cap: "A line of $n$ points."\n'
        '#| fig-alt: "Line rising to the right."\nplot_a_line()',
        outputs=shown(svg=svg_of_a_line(), text="<Figure size 300x200>"),
    ),
    new_markdown_cell("| class | n |\n|---|--:|\n| normal | 1 583 |\n\n: Two classes. {#tbl-data-md}"),
    new_markdown_cell(
        "## Splits {#sec-data-splits}\n\nBy the formula\n\n$$ \\hat y = \\sigma(w \\cdot x). $$"
    ),
]
SIZES = [
    new_markdown_cell("# Sizes\n\nAfter @sec-data, see @tbl-sizes-frame, [-@tbl-sizes-styled] and @sec-data-splits."),
    new_code_cell(
        '#| label: tbl-sizes-frame\n#| tbl-cap: "Parameters."\nframe',
        outputs=shown(html=FRAME.to_html(), text="parameters …"),
    ),
    new_code_cell(
        '#| label: tbl-sizes-styled\n#| tbl-cap: "Styled."\n#| echo: false\nhidden_call()',
        outputs=shown(html=FRAME.style.set_caption("a caption of its own").to_html()),
    ),
    new_code_cell(
        "print_much()",
        outputs=[
            new_output("stream", name="stdout", text="\n".join(f"line {n}" for n in range(500))),
            new_output("stream", name="stderr", text="a warning nobody needs"),
        ],
    ),
]
RESULTS = [
    new_markdown_cell("# Results {#sec-results}"),
    new_code_cell(
        "import json, os\nfolder = os.environ['PNEUMOPRUNE_RUN']\nsummary = json.load(open(folder + '/summary.json'))"
    ),
    new_code_cell(
        "#| echo: false\nfrom IPython.display import Markdown\n"
        "Markdown(f\"The accuracy of @tbl-sizes-frame is {summary['accuracy']:.3f}.\")"
    ),
    new_code_cell(
        '#| label: tbl-results-all\n#| tbl-cap: "Results."\n'
        "Markdown(f\"| model | accuracy |\\n|---|--:|\\n| original | {summary['accuracy']:.4f} |\")"
    ),
]
PROFILE = """lang: {lang}
keywords: [pruning, AlexNet]
project: {{output-dir: _report/{lang}}}
book:
  title: {title}
  subtitle: Tested
  output-file: small
  chapters: [index.qmd, nbs/data.ipynb, nbs/sizes.ipynb, nbs/findings/results.ipynb]
"""


def make_book(folder: Path) -> Path:
    (folder / "nbs/findings").mkdir(parents=True)
    shutil.copytree(ROOT / "report", folder / "report")
    shutil.copy(ROOT / "_quarto.yml", folder)
    (folder / "index.qmd").write_text(
        '# Preface {.unnumbered}\n\n::: {.content-visible when-profile="en"}\nOnly English.\n:::\n\n'
        '::: {.content-visible when-profile="ru"}\nТолько по-русски.\n:::\n',
        encoding="utf-8",
    )
    for lang, title in {"en": "A small book", "ru": "Малая книга"}.items():
        (folder / f"_quarto-{lang}.yml").write_text(PROFILE.format(lang=lang, title=title), encoding="utf-8")
    for name, cells in {"data": DATA, "sizes": SIZES, "findings/results": RESULTS}.items():
        nbformat.write(new_notebook(cells=cells), folder / "nbs" / f"{name}.ipynb")
    return folder


def make_run(folder: Path, accuracy: float, synthetic: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"data": {"synthetic": synthetic}}))
    (folder / "summary.json").write_text(json.dumps({"accuracy": accuracy}))
    return folder


def text_of(pdf: Path | PdfReader, pages=slice(None)) -> str:
    reader = pdf if isinstance(pdf, PdfReader) else PdfReader(pdf)
    return " ".join(" ".join(page.extract_text() for page in reader.pages[pages]).split())


def dictionaries(reader: PdfReader):
    "Every dictionary object of a PDF"
    for number in range(1, len(reader.xref_objStm) + sum(map(len, reader.xref.values())) + 1):
        value = reader.get_object(number)
        if isinstance(value, DictionaryObject):
            yield value


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    return make_book(tmp_path_factory.mktemp("book") / "book")


@pytest.fixture(scope="module")
def report(book, tmp_path_factory) -> Path:
    "The small book of a run, as PDF and HTML, without Quarto"
    folder = tmp_path_factory.mktemp("report")
    run = make_run(folder / "run", accuracy=0.8765)
    return render_report(run, folder / "report.pdf", html=True, book=book)


@pytest.fixture(scope="module")
def text(report) -> str:
    return text_of(report)


def test_every_figure_and_table_is_numbered_once(text):
    assert re.findall(r"Figure (\d\.\d): ", text) == ["1.1"]
    assert re.findall(r"Table (\d\.\d): ", text) == ["1.1", "2.1", "2.2", "3.1"]


def test_references_are_resolved(text):
    assert "Shown in Figure 1.1, counted in Table 1.1." in text
    assert "After Chapter 1, see Table 2.1, 2.2 and Section 1.1." in text
    assert "The accuracy of Table 2.1 is 0.876." in text or "The accuracy of Table 2.1 is 0.877." in text
    assert "?@" not in text and "@fig" not in text and "@tbl" not in text and "@sec" not in text


def test_what_is_not_for_readers_is_gone(text):
    for leak in ("#|", ":::", "default_exp", "secret_of_the_house", "hidden_call", "a warning nobody needs", "fig-cap"):
        assert leak not in text
    assert "a caption of its own" not in text and "Figure size" not in text
    assert "line 499" in text and "line 250" not in text and "(480 more lines)" in text


def test_tables_keep_their_cells(text):
    assert "original 61100840 a.onnx" in text and "normal 1 583" in text and "original 0.8765" in text


def test_metadata_language_and_bookmarks(report):
    reader = PdfReader(report)
    assert reader.metadata.title == "A small book" and reader.metadata.author == "pneumoprune contributors"
    assert reader.metadata["/Keywords"] == "pruning, AlexNet"
    assert reader.trailer["/Root"]["/Lang"].startswith("en")
    titles = [entry["/Title"] for entry in reader.outline if not isinstance(entry, list)]
    assert titles[-3:] == ["1 Data", "2 Sizes", "3 Results"]


def test_fonts_are_embedded_and_figures_are_vectors_with_alt_text(report):
    reader = PdfReader(report)
    objects = list(dictionaries(reader))
    fonts = [d for d in objects if d.get("/Type") == "/FontDescriptor"]
    assert fonts and all({"/FontFile", "/FontFile2", "/FontFile3"} & set(d) for d in fonts)
    assert "Line rising to the right." in [str(d["/Alt"]) for d in objects if "/Alt" in d]
    assert not [d for d in objects if d.get("/Subtype") == "/Image"]


def test_html_is_one_file(report):
    page = report.with_suffix(".html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert page.count("<figcaption>") == 5 and "Table\u00a02.2: Styled." in page
    assert 'alt="Line rising to the right."' in page and "<math" in page
    assert '<a href="#tbl-sizes-frame">Table\u00a02.1</a>' in page
    assert "#|" not in page and "secret_of_the_house" not in page


def test_another_run_gives_other_numbers(book, text, tmp_path):
    other = render_report(make_run(tmp_path / "run", 0.4321), tmp_path / "other.pdf", book=book)
    numbers, others = (re.findall(r"0\.\d{3,4}", t) for t in (text, text_of(other)))
    assert len(numbers) == len(others) == 2 and not set(numbers) & set(others)
    assert "0.4321" in others


def test_phantoms_are_named_on_the_first_page_and_in_every_table_caption(book, text, tmp_path):
    run = make_run(tmp_path / "run", 0.5, synthetic=True)
    pdf = render_report(run, tmp_path / "phantoms.pdf", html=True, book=book)
    words = WORDS["en"]
    assert words["notice"] in text_of(pdf, slice(0, 1))
    captions = re.findall(r"Table \d\.\d: \S+(?: classes)?\. " + re.escape(words["caption"]), text_of(pdf))
    assert len(captions) == 4
    assert words["notice"] in pdf.with_suffix(".html").read_text(encoding="utf-8")
    assert words["notice"] not in text and words["caption"] not in text


def test_russian(book, tmp_path):
    run = make_run(tmp_path / "run", 0.5, synthetic=True)
    pdf = render_report(run, tmp_path / "ru.pdf", lang="ru", book=book)
    reader, text = PdfReader(pdf), text_of(pdf)
    assert reader.metadata.title == "Малая книга" and reader.trailer["/Root"]["/Lang"].startswith("ru")
    assert "Только по-русски." in text and "Only English" not in text
    assert "Рисунок 1.1. " in text and "Таблица 2.1. " in text and "Содержание" in text
    assert WORDS["ru"]["notice"] in text_of(pdf, slice(0, 1))
    fonts = {str(d["/FontName"]).split("+")[-1].split("-")[0] for d in dictionaries(reader) if "/FontName" in d}
    assert fonts <= {"LibertinusSerif", "DejaVuSansMono", "NewCMMath"}  # no letter had to be borrowed elsewhere


def test_the_source_tree_is_left_alone(book, report):
    assert not (book / "_report").exists() and not list(book.rglob("media"))
    saved = nbformat.read(book / "nbs/findings/results.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in saved.cells)


def test_filter_is_a_program_of_its_own():
    cells = [
        new_code_cell("#| hide\nx"),
        new_code_cell("#| export\n#|exporti\n# | label: fig-a\n#| echo: false\n\ny = '''\n#| hide\n'''"),
        new_code_cell("#| hide_input\nz"),
        new_code_cell("bar()", outputs=[new_output("stream", name="stdout", text="10 %\r50 %\r100 %\n")]),
        new_markdown_cell("a\nb"),
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
    cells = [new_code_cell("#| default_exp part"), new_code_cell(source), new_code_cell("#| export\nimport sys")]
    [cell] = filtered(cells)  # a cell of imports alone is gone
    remark = "    # … 20 more lines in pneumoprune/part.py\n"
    expected = f"def _helper(x):\n    'What it does'\n{remark}\n{public}\n@decorated\ndef _bare(x):\n{remark}"
    assert "".join(cell["source"]).strip() == expected.strip()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"run": "nowhere"}, "There is no run folder nowhere"),
        ({"lang": "de"}, "no report in the language 'de'; choose one of: en, ru"),
        ({"output": "report.docx"}, "give report.docx the ending .pdf"),
    ],
)
def test_errors_name_the_remedy(book, tmp_path, options, message):
    options = {"run": make_run(tmp_path / "run", 0.5), "output": tmp_path / "x.pdf"} | options
    with pytest.raises(ReportError, match=re.escape(message)):
        render_report(book=book, **options)


def test_failing_chapter_is_named(book, tmp_path):
    run = make_run(tmp_path / "run", 0.5)
    (run / "summary.json").write_text("{}")
    with pytest.raises(ReportError, match=r"nbs/findings/results\.ipynb, cell 2, failed .*KeyError: 'accuracy'"):
        render_report(run, tmp_path / "x.pdf", book=book)
    assert not (tmp_path / "x.pdf").exists()


def filtered(cells: list) -> list:
    "Cells after the report's filter for notebooks"
    program = [sys.executable, "-I", ROOT / "report/strip_directives.py"]
    text = nbformat.writes(new_notebook(cells=cells))
    done = subprocess.run(program, input=text, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)["cells"]


def test_printed_pieces_are_joined_and_tables_made_fit_for_print():
    frame = pd.DataFrame({"n": [1]}, index=pd.Index(["= used"], name="step"))
    pieces = [new_output("stream", name="stdout", text=text) for text in ("a\n", "b\n")]
    cells = filtered(
        [
            new_code_cell("x", outputs=pieces),
            new_code_cell("x", outputs=shown(html=frame.to_html())),
            new_code_cell("x", outputs=shown(html=frame.style.set_caption("own").to_html())),
            new_code_cell("x", outputs=shown(html=FRAME.T.to_html())),
        ]
    )
    assert [output["text"] for output in cells[0]["outputs"]] == [["a\n", "b\n"]]
    for cell in cells[1:3]:
        html = cell["outputs"][0]["data"]["text/html"]
        head = html.split("<thead>")[1].split("</thead>")[0]
        assert head.count("<tr") == 1 and re.findall(r"<th[^>]*>(.*?)</th>", head) == ["step", "n"]
        assert "\u2060= used" in html and "own" not in html
    plain = FRAME.T.to_html().replace(' style="text-align: right;"', "")  # the templates align columns, not pandas
    assert cells[3]["outputs"][0]["data"]["text/html"] == plain


@pytest.mark.parametrize("lang", ["en", "ru"])
def test_the_committed_book_renders(lang, tmp_path):
    "Every labelled figure and table of the chapters, as saved, is numbered in the PDF, and nothing leaks"
    book = _read_book(ROOT, lang)
    labels = []
    for name in book.chapters[1:]:
        for cell in nbformat.read(ROOT / name, as_version=4).cells:
            pattern = r"(?m)^#\| label: (fig|tbl)-" if cell.cell_type == "code" else r"\{#(fig|tbl)-"
            top = cell.source if cell.cell_type == "markdown" else re.match(r"(#.*\n?)*", cell.source)[0]
            labels += re.findall(pattern, top)
    pdf = render_report(None, tmp_path / "book.pdf", lang=lang, html=True)
    bookmarks = [entry["/Title"] for entry in PdfReader(pdf).outline if not isinstance(entry, list)]
    assert len(bookmarks) == len(book.chapters)
    page = pdf.with_suffix(".html").read_text(encoding="utf-8")
    for kind in ("fig", "tbl"):
        captions = re.findall(rf"<figcaption>{WORDS[lang][kind]}\u00a0([\d.]+?){re.escape(WORDS[lang]['stop'])} ", page)
        assert len(captions) == len(set(captions)) == labels.count(kind) > 0
    prose = re.sub(r"<details>.*?</details>|<code>.*?</code>|<pre.*?</pre>", "", page, flags=re.S)
    assert not [leak for leak in ("?@", ":::", "@fig-", "@tbl-", "@sec-", "#| ") if leak in prose]
