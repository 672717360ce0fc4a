"Figures and tables on runs of every composition: what is drawn is what the run holds, in words a reader can read"

import ast
import inspect
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pneumoprune import figures as fg
from pneumoprune.core import MODELS
from pneumoprune.synthetic import SHIFTS
from pneumoprune.figures import FigureError, simulated_run

PLOTS = (
    "curves",
    "confusion_matrices",
    "roc_and_pr",
    "calibration",
    "latency_plot",
    "sizes",
    "channels",
    "widths",
    "sensitivity_map",
    "tradeoff",
    "forest",
    "scores",
    "flow",
)
TABLES = (
    "comparison_table",
    "headline_table",
    "metrics_table",
    "shift_table",
    "sizes_table",
    "channels_table",
    "latency_table",
    "noninferiority_table",
    "failures_by_kind",
    "data_table",
    "reproduce_table",
)


@pytest.fixture(scope="module")
def run():
    return simulated_run(5)


@pytest.fixture(scope="module")
def three():
    return simulated_run(6, models=MODELS[:3], synthetic=False)


def words_of(figure: Figure) -> list[str]:
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_visible()]
    return [text.get_text() for text in texts if text.get_text()]


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_fits_says_what_it_is_made_of_and_stays_out_of_pyplot(name, run, three):
    before = plt.get_fignums()
    for lang, word in (("en", "phantoms, no patients"), ("ru", "фантомы, не пациенты")):
        figure = getattr(fg, name)(run, lang=lang)
        assert figure.get_figwidth() <= 6.5, "wider than the text of an A4 page"
        assert word in words_of(figure)
        assert word not in words_of(getattr(fg, name)(three, lang=lang)), "real pictures are no phantoms"
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", [p for p in PLOTS if p != "flow"])
def test_every_axis_has_a_label(name, run):
    figure = getattr(fg, name)(run)
    shared = bool(figure._supxlabel), bool(figure._supylabel)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    bottom = [ax for ax in panels if ax.get_subplotspec().is_last_row()]
    left = [ax for ax in panels if ax.get_subplotspec().is_first_col()]
    assert shared[0] or any(ax.get_xlabel() for ax in bottom)
    # a bar or a box is named by its tick, which needs no label
    named = all(
        not t.get_text().replace("−", "-").replace(".", "").lstrip("-").isdigit()
        for ax in left
        for t in ax.get_yticklabels()
    )
    assert shared[1] or named or all(ax.get_ylabel() for ax in left)


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_a_word_for_every_cell_and_their_language(name, run, three):
    for given_run in (run, three):
        english, russian = (getattr(fg, name)(given_run, lang=lang) for lang in fg.LANGUAGES)
        assert english.shape == russian.shape and english.size
        assert not english.isna().any(axis=None) and not russian.isna().any(axis=None)
    if name != "reproduce_table":  # versions are written with points in every language
        assert not russian.astype(str).stack().str.contains(r"\d\.\d").any()


def test_every_word_of_a_figure_has_a_translation():
    tree = ast.parse(inspect.getsource(fg))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "_say"]
    words = {n.args[0].value for n in calls if isinstance(n.args[0], ast.Constant)}
    words |= {*SHIFTS, *fg.KINDS} | set(fg.METRIC_NAMES.values()) | set(fg._MEASURES.values())
    assert len(words) > 60 and words <= fg._RUSSIAN.keys()
    with pytest.raises(FigureError, match="no figures in 'de'"):
        fg.forest(simulated_run(1, models=MODELS[:2]), lang="de")


def test_forest_draws_the_intervals_of_the_summary(run):
    figure = fg.forest(run)
    for ax, metric in zip(figure.axes, ("accuracy", "auc")):
        segments = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"][1:]
        for name, line in zip(run.models[1:], segments):
            assert np.allclose(
                line.get_xdata(), 100 * np.array(run.summary["comparisons"][name]["difference"][metric][1:])
            )


def test_sizes_and_channels_draw_what_the_run_holds(run):
    drawn = [float(dot.get_xdata()[0]) for dot in fg.sizes(run).axes[0].lines]
    assert drawn == [run.summary["models"][n][k] for n in run.models for k in ("size_mb", "file_mb")]
    last = run.pruning[run.pruning["round"] == run.pruning["round"].max()]
    drawn = [bar.get_width() for bar in fg.channels(run).axes[0].patches][-len(last) :]
    assert np.allclose(drawn, 100 * last["inputs left"] / last["inputs"])


def test_failures_add_up_and_the_surest_error_comes_first(run):
    table = fg.failures_by_kind(run)
    for name in run.models:
        counts = table[name].str.split(" ").str[0].astype(int)
        assert counts[:-1].sum() == counts.iloc[-1] > 0
        worst = fg.confident_errors(run, name, 10**6)
        assert len(worst) == counts.iloc[-1]
        distance = (worst["probability"].astype(float) - run.summary["models"][name]["threshold"]).abs()
        assert (distance.diff().dropna() <= 1e-3).all()


def test_a_run_without_a_table_is_told_which():
    alone = simulated_run(1, models=("original",))
    for function, what in (
        (fg.channels, "pruning.csv"),
        (fg.widths, "compaction.csv"),
        (fg.channels_table, "pruning.csv"),
    ):
        with pytest.raises(FigureError, match=what):
            function(alone)
    with pytest.raises(FigureError, match="nothing to compare"):
        fg.forest(alone)
    assert math.isnan(fg.roughness([1.0, 2.0]))


finite = st.floats(-1e9, 1e9, allow_nan=False)


@given(finite, st.integers(0, 6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_printed_number_can_be_read_back(value, digits, signed):
    for lang in fg.LANGUAGES:
        text = fg.number(value, digits, signed=signed, lang=lang)
        plain = (
            text.replace("−", "-").replace("\u00a0", "") if lang == "ru" else text.replace("−", "-").replace(",", "")
        )
        assert float(plain.replace(",", ".")) == pytest.approx(round(value, digits), abs=1e-9)
        assert not text.startswith("−") or float(plain.replace(",", ".")) < 0


@given(st.floats(1e-6, 1e9))
@settings(max_examples=200, deadline=None)
def test_significant_digits_keep_the_value(value):
    text = fg.significant(value).replace(",", "")
    assert float(text) == pytest.approx(value, rel=0.006) and "e" not in text


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=40), st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=100, deadline=None)
def test_roughness_ignores_a_straight_course_and_scales(values, slope, offset, factor):
    values = np.array(values)
    rough = fg.roughness(values)
    assert fg.roughness(values + slope * np.arange(len(values)) + offset) == pytest.approx(rough, abs=1e-9)
    assert fg.roughness(factor * values) == pytest.approx(factor * rough, abs=1e-9)
