"Figures and tables on runs of every composition: what is drawn and printed is what the run holds, in either language"

import inspect
import itertools
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from simulated import simulated_run

from pneumoprune import figures as fg
from pneumoprune import tables as tb
from pneumoprune.core import MODELS, figure_style
from pneumoprune.evaluation import METRICS
from pneumoprune.figures import FigureError
from pneumoprune.phrases import LANGUAGES, number, say, significant, use_language
from pneumoprune.run import kinds, reference_run
from pneumoprune.synthetic import SHIFTS

PLOTS = (
    "curves", "confusion_matrices", "roc_and_pr", "calibration", "latency_plot", "sizes", "channels", "widths",
    "sensitivity_map", "tradeoff", "forest", "scores", "flow",
)  # fmt: skip
TABLES = (
    "comparison_table", "literature_table", "headline_table", "metrics_table", "shift_table", "sizes_table",
    "latency_table", "noninferiority_table", "earlier_table", "failures_by_kind", "data_table", "reproduce_table",
    "shortcuts_table",
)  # fmt: skip


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        figure_style()
        yield


@pytest.fixture(scope="module")
def run():
    return simulated_run(5, progression=[(0.4, 0.5), (0.6, 1.0)])


@pytest.fixture(scope="module")
def reference():
    return reference_run()


@pytest.fixture(scope="module")
def three():
    return simulated_run(6, models=MODELS[:3], synthetic=False)


@pytest.fixture(scope="module")
def alone():
    return simulated_run(1, models=MODELS[:1])


def shortened(run, epochs):
    "The same run, each training of which stopped after so many epochs"
    settings = {**run.info["settings"], "masked": {"epochs": epochs}, "rounds": epochs}
    history = run.history[run.history["epoch"] <= epochs]
    return replace(run, history=history, info={**run.info, "settings": settings})


def drawn(name, run, lang="en") -> Figure:
    with use_language(lang):
        return getattr(fg, name)(run)


@pytest.fixture(scope="module")
def once():
    "As `drawn`, but a figure is drawn only once for the tests that merely look at it"
    figures = {}

    def look(name, run, lang="en"):
        key = (name, id(run), lang)
        return figures.get(key) or figures.setdefault(key, drawn(name, run, lang))

    return look


def printed(name, run, lang="en", *args):
    with use_language(lang):
        return getattr(tb, name)(run, *args)


def seen(figure: Figure) -> list[Text]:
    "The texts that a reader sees, after the figure was laid out: not those of hidden panels, nor ticks beyond an axis"
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.draw_without_rendering()
    hidden = set()
    for axis in (axis for ax in figure.findobj(plt.Axes) for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        hidden |= {tick.label1 for tick in ticks if not low - 1e-9 <= tick.get_loc() <= high + 1e-9}
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in hidden]
    return [text for text in texts if text.axes is None or text.axes.get_visible()]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in seen(figure))


@pytest.mark.parametrize("name", PLOTS)
def test_a_figure_fits_a_page_says_what_it_is_made_of_and_stays_out_of_pyplot(name, run, three, once):
    before = plt.get_fignums()
    for lang, warning in (("en", "phantoms, no patients"), ("ru", "фантомы, не пациенты")):
        figure = once(name, run, lang)
        assert figure.get_figwidth() <= 6.5, "wider than the text of an A4 page"
        assert figure.get_suptitle() == warning
    assert drawn(name, three).get_suptitle() == "", "real X-rays are no phantoms"
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", PLOTS)
def test_no_text_lies_on_another_or_leaves_the_page(name, run, reference, once):
    for given, lang in itertools.product((run, reference), LANGUAGES):
        figure = once(name, given, lang)
        boxes = [(text.get_text(), text.get_window_extent().extents.tolist()) for text in seen(figure)]
        for (one, (a0, b0, a1, b1)), (other, (c0, d0, c1, d1)) in itertools.combinations(boxes, 2):
            wide, high = min(a1, c1) - max(a0, c0), min(b1, d1) - max(b0, d0)
            assert wide < 2 or high < 2, f"{one!r} lies on {other!r}"
        width, height = figure.bbox.width, figure.bbox.height
        for text, (left, bottom, right, top) in boxes:
            assert min(left, bottom) > -2 and right < width + 2 and top < height + 2, f"{text!r} is cut off"


@pytest.mark.parametrize("name", [plot for plot in PLOTS if plot != "flow"])
def test_every_axis_has_a_label(name, run, once):
    figure = once(name, run)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert any(ax.get_xlabel() for ax in panels if ax.get_subplotspec().is_last_row())
    for ax in (ax for ax in panels if ax.get_subplotspec().is_first_col()):
        ticks = [tick.get_text() for tick in ax.get_yticklabels()]
        named = not any(re.fullmatch(r"[−\d.]+", tick) for tick in ticks)  # a row is named by its tick
        assert named or ax.get_ylabel() or figure.get_supylabel()


def test_a_figure_keeps_the_language_it_was_made_in(run):
    russian, english = drawn("calibration", run, "ru"), drawn("calibration", run, "en")
    with use_language("ru"):
        text = words(english)
    assert "0.2" in text and "0,2" not in text
    text = words(russian)
    assert "0,2" in text and "0.2" not in text
    for module, names in ((fg, PLOTS), (tb, TABLES)):
        assert not any("lang" in inspect.signature(getattr(module, name)).parameters for name in names)


def test_curves_draw_the_history_and_zoom_past_the_first_epochs(run, once):
    figure = once("curves", run)
    for row, quantity, factor in zip(np.array(figure.axes).reshape(2, -1), ("loss", "accuracy"), (1, 100)):
        for ax, name in zip(row, run.trained):
            own = run.history[run.history["model"] == name]
            *marks, train, validation = ax.lines
            assert np.allclose(train.get_ydata(), factor * own[f"train_{quantity}"])
            assert np.allclose(validation.get_ydata(), factor * own[f"val_{quantity}"])
            assert list(validation.get_xdata()) == own["epoch"].tolist()
            dashed = [mark.get_xdata()[0] + 0.5 for mark in marks if mark.get_linestyle() == "--"]
            rounds, epochs = run.info["settings"]["rounds"], len(own)
            assert len(dashed) == (rounds if name == "masked" else 0)
            assert not dashed or (dashed[0] == 1 and max(np.diff([*dashed, epochs + 1])) - epochs / rounds < 1)
            low, high = ax.get_ylim()
            inside = (low <= validation.get_ydata()) & (validation.get_ydata() <= high)
            assert inside[5:].all(), "only the first epochs may leave the axis"
            first = validation.get_ydata()[0]
            note = [text.get_text() for text in ax.texts]
            assert (note == []) if inside[0] else (number(first, 2 if factor == 1 else 0) in note[0])


@pytest.mark.parametrize("short", [1, 2])
def test_curves_of_a_training_of_few_epochs(run, short):
    line = drawn("curves", shortened(run, short)).axes[0].lines[-1]
    assert len(line.get_xdata()) == short and line.get_marker() == "."


def test_confusion_matrices_hold_every_image_of_the_test_set(run, once):
    test = run.part("test")
    for name, ax in zip(run.models, once("confusion_matrices", run).axes):
        positive, predicted = test["label"] == 1, test[name] >= run.summary["models"][name]["threshold"]
        cells = [(positive == row) & (predicted == column) for row in (0, 1) for column in (0, 1)]
        shares = [cell.sum() / (positive == row).sum() for cell, row in zip(cells, (0, 0, 1, 1))]
        expected = [f"{cell.sum()}\n{number(100 * share, 1)} %" for cell, share in zip(cells, shares)]
        assert [text.get_text() for text in ax.texts] == expected
        assert np.allclose(ax.collections[0].get_array().ravel(), shares)


def test_roc_curves_enclose_the_areas_of_the_summary(run, once):
    roc, pr = once("roc_and_pr", run).axes[:2]
    for name, curve, dot in zip(run.models, roc.lines[0::2], roc.lines[1::2]):
        test = run.summary["models"][name]["test"]
        assert np.trapezoid(curve.get_ydata(), curve.get_xdata()) == pytest.approx(test["auc"][0])
        assert np.hypot(*(curve.get_xydata() - dot.get_xydata()).T).min() < 1e-9
    for name, curve, dot in zip(run.models, pr.lines[0::2], pr.lines[1::2]):
        area = -np.sum(np.diff(curve.get_xdata()) * curve.get_ydata()[:-1])
        assert area == pytest.approx(run.summary["models"][name]["test"]["average_precision"][0])
        assert np.hypot(*(curve.get_xydata() - dot.get_xydata()).T).min() < 1e-9


def test_boxes_of_times_have_the_quartiles_of_the_run(run, once):
    panel = once("latency_plot", run).axes[0]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == [
        f"{name}\n{'onnxruntime' if name == 'slim-int8' else 'pytorch'}" for name in run.models
    ]
    for place, name in enumerate(run.models):
        own = run.latency[run.latency["model"] == name]
        times = own[(own["threads"] == 1) & (own["batch"] == 1)]["milliseconds"]
        assert panel.texts[place].get_text() == significant(times.median())
        points = np.concatenate([line.get_xydata() for line in panel.lines])
        ends = points[abs(points[:, 1] - place) < 0.5, 0]
        for quantile in (0, 0.25, 0.5, 0.75, 1):
            assert abs(ends / times.quantile(quantile) - 1).min() < 1e-9
    with pytest.raises(FigureError, match=r"nothing was timed with 64 threads; choose from \[1, 2\]"):
        fg.latency_plot(run, threads=64)


def test_sizes_channels_and_widths_draw_what_the_run_holds(run, once):
    dots = [float(dot.get_xdata()[0]) for dot in once("sizes", run).axes[0].lines]
    assert dots == [run.summary["models"][name][key] for name in run.models for key in ("size_mb", "file_mb")]
    last = run.pruning[run.pruning["round"] == run.pruning["round"].max()]
    bars = once("channels", run).axes[0].patches[-len(last) :]
    assert np.allclose([bar.get_width() for bar in bars], 100 * last["inputs left"] / last["inputs"])
    before, after, slim = np.array([dot.get_xdata()[0] for dot in once("widths", run).axes[0].lines]).reshape(3, -1)
    assert before.tolist() == run.compaction["outputs_before"].tolist()[:-1]
    assert after.tolist() == run.compaction["outputs_after"].tolist()[:-1]
    assert "-".join(f"{width:.0f}" for width in slim) in set(run.rounds["widths"])


def test_sensitivity_map_has_each_auc_in_its_place(run, once):
    figure = once("sensitivity_map", run)
    texts = iter(figure.axes[0].texts)
    for layer in run.sensitivity["layer"].unique():
        row = run.sensitivity[run.sensitivity["layer"] == layer].sort_values("amount")
        assert [next(texts).get_text() for _ in range(len(row))] == row["auc"].map(number).tolist()


def test_tradeoff_draws_the_path_and_the_tolerance_only_where_there_is_one(run, three, once):
    lines = {line.get_label(): line for line in once("tradeoff", run).axes[1].lines}
    assert np.allclose(lines["slimming rounds"].get_xdata(), run.rounds["macs"] / 1e6)
    least = run.summary["models"]["original"]["shift_auc"] - run.info["settings"]["slim"]["tolerance"]
    assert lines["tolerance"].get_ydata()[0] == pytest.approx(least)
    assert lines["slim"].get_ydata() == [run.summary["models"]["slim"]["shift_auc"]]
    assert {line.get_label() for line in drawn("tradeoff", three).axes[0].lines} == set(three.models)


def test_forest_draws_the_intervals_of_the_summary(run, once):
    for ax, metric in zip(once("forest", run).axes, ("accuracy", "auc")):
        margin = ax.lines[1].get_xdata()[0]
        for place, (name, bar) in enumerate(zip(run.models[1:], ax.containers)):
            judged = run.summary["comparisons"][name]["noninferiority"][metric]
            (segment,) = bar[2][0].get_segments()
            assert np.allclose(segment[:, 0], [100 * judged["low"], 100 * judged["high"]])
            assert segment[:, 1].tolist() == [place, place] and margin == -100 * judged["margin"]
            assert ax.texts[place].get_text() == judged["verdict"]


def test_scores_rise_where_the_images_of_a_kind_are(run, once):
    test = run.part("test")
    kind = kinds(test["name"], test["label"])
    for name, ax in zip(run.models, once("scores", run).axes):
        for line, chosen in zip(ax.lines, ("normal", "bacterial pneumonia", "viral pneumonia")):
            below = line.get_ydata()[line.get_xdata() <= 0.5].max()
            assert below == pytest.approx((test[name][kind == chosen] <= 0.5).mean())


def test_flow_counts_what_was_found_left_out_and_used(run):
    data = {**run.info["data"], "unreadable": ["a", "b"], "left_out": ["c"]}
    figure = drawn("flow", replace(run, info={**run.info, "data": data}))
    text = words(figure)
    assert f"images found: {number(data['images'] + 3, 0)}" in text and f"used: {number(data['images'], 0)}" in text
    assert "left out: 3\nunreadable: 2\nequal to a held-out image: 1" in text
    for split, counts in data["counts"].items():
        assert f"{split}: {number(sum(counts.values()), 0)}\nnormal: {number(counts['NORMAL'], 0)}" in text


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_a_word_for_every_cell_and_their_language(name, run, three):
    for given in (run, three):
        english, russian = (printed(name, given, lang) for lang in LANGUAGES)
        assert english.shape == russian.shape and english.size
        assert not english.isna().any(axis=None) and not russian.isna().any(axis=None)
    if name != "reproduce_table":  # versions are written with points in every language
        assert not russian.astype(str).stack().str.contains(r"\d\.\d").any()
        numbers = [table.astype(str).map(lambda cell: re.sub(r"\D", "", cell)) for table in (english, russian)]
        assert (numbers[0].to_numpy() == numbers[1].to_numpy()).all(), "the same digits in both languages"


def test_shifts_and_verdicts_have_a_russian_word():
    with use_language("ru"):
        for word in (*SHIFTS, "superior", "non-inferior", "inferior", "inconclusive", "uninformative"):
            assert re.search("[а-я]", say(word))


def test_a_table_prints_the_statistics_of_its_run_and_no_other(run):
    table = printed("metrics_table", run)
    for row, key in zip(tb.METRIC_NAMES.values(), METRICS):
        for name in run.models:
            value, low, high = run.summary["models"][name]["test"][key]
            assert table.loc[row, name] == f"{value:.3f} [{low:.3f}, {high:.3f}]"
    other = simulated_run(7)
    for name in ("headline_table", "comparison_table", "sizes_table", "noninferiority_table", "shift_table"):
        assert printed(name, run).to_string() != printed(name, other).to_string()


def test_comparison_has_the_published_values_and_ours(run):
    table = printed("comparison_table", run)
    assert table["published, original"].tolist() == ["0.887", "7.463", "233.081", "233.1", "smooth", "smooth", *"———"]
    for name in run.models:
        model = run.summary["models"][name]
        assert float(table.loc["model size (MB)", name].replace(",", "")) == pytest.approx(model["size_mb"], abs=5e-4)
        assert table.loc["specificity", name] == number(model["test"]["specificity"][0])
    assert printed("comparison_table", shortened(run, 2)).loc["loss curve: noise between jumps", "original"] == "—"


def test_failures_add_up_and_the_surest_error_comes_first(run):
    table = printed("failures_by_kind", run)
    for name in run.models:
        counts = table[name].str.split(" ").str[0].astype(int)
        assert counts[:-1].sum() == counts.iloc[-1] > 0
        worst = printed("confident_errors", run, "en", name, 10**6)
        assert len(worst) == counts.iloc[-1]
        distance = (worst["probability"].astype(float) - run.summary["models"][name]["threshold"]).abs()
        assert (distance.diff().dropna() <= 1e-3).all()


def test_the_command_names_what_was_not_the_default(run, three):
    def command(given, **changed):
        info = {**given.info, "settings": {**given.info["settings"], **changed}}
        return printed("reproduce_table", replace(given, info=info)).loc["command", "value"]

    assert "--data chest_xray.zip" in command(three) and "--data" not in command(run)
    assert "--limit" not in command(three) and "--limit 100" in command(three, limit=100)
    assert "--quick" not in command(three) and "--quick" in command(three, conv=[8, 8, 8, 8, 8])
    slim = run.info["settings"]["slim"]
    assert "--max-macs 1e+07 --min-speedup 2.5" in command(run, slim={**slim, "max_macs": 1e7, "min_speedup": 2.5})


def test_a_run_without_a_table_is_told_which(alone):
    for function, what in (
        (fg.channels, "pruning.csv"),
        (fg.widths, "compaction.csv"),
        (tb.amounts_table, "amounts.csv"),
    ):
        with pytest.raises(FigureError, match=f"no {what}; run the lab stage that writes it"):
            function(alone)
    with pytest.raises(FigureError, match="nothing to compare"):
        fg.forest(alone)
    assert printed("noninferiority_table", alone).empty
    assert [line.get_label() for line in drawn("tradeoff", alone).axes[0].lines] == ["original"]
