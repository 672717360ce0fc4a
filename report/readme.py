"Write the measured tables into README.md, between their markers, and the cards: no number there is typed"

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from pneumoprune.cards import data_card, model_card, refused
from pneumoprune.lab import LabSettings
from pneumoprune.phrases import interval, judged, measured, told_first
from pneumoprune.run import load_run, shortcut_auc, shortcut_effects, times_smaller
from pneumoprune.tables import comparison_table

ROOT = Path(__file__).parent.parent
MARKERS = re.compile(r"(<!-- (\w+): written by .*?-->\n).*?(<!-- end of \2 -->)", re.S)


def results(folder: Path = ROOT / "results/reference") -> str:
    "The comparison table of a run as Markdown, and what it was measured on"
    run = load_run(folder)
    table = comparison_table(run).reset_index()
    rows = [table.columns, ["---"] + ["---:"] * (table.shape[1] - 1), *table.values.tolist()]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    counts, seconds = run.info["data"]["counts"]["test"], sum(run.info["seconds"].values())
    uncounted = "" if run.rounds["seconds"].iloc[0] else ", validation between the rounds of slimming not counted"
    lines.append(
        "\nThe *published* columns are the closing table of the lab report whose recipe is repeated here (AlexNet, 25 "
        "epochs, chest X-rays). We know of no public copy to cite. It had a machine of its own: its seconds compare "
        "with each other only."
    )
    lines.append(
        f"\nMeasured on the test set of {run.info['data']['name']} ({sum(counts.values())} X-rays), "
        f"with {run.info['threads']} threads at most of this processor: {run.info['cpu']}. "
        f"Training: {run.info.get('device', 'cpu')}; the stages of the run took {seconds / 60:.0f} minutes{uncounted}. "
        "A megabyte is 2²⁰ bytes; inference time is that of the whole test set on one core, networks taking turns. "
        "Noise is what is left on a validation curve without its learning ramp, prunings and changes of image size, "
        "with a 95 % interval. Intervals of the other numbers, curves, confusion matrices and the rest stand in the "
        "report."
    )
    fast = [run.summary["speedups"][f"slim-int8 against original in {engine}"] for engine in ("pytorch", "onnxruntime")]
    eager, runtime = (f"{median:.1f} times ({low:.1f} to {high:.1f})" for median, low, high in fast)
    lines.append(
        f"\nThe file of `slim-int8` is {times_smaller(run, 'slim-int8'):,.0f} times smaller than that of `original`. "
        f"With one image and one thread it is {eager} as fast as `original` in PyTorch, and {runtime} as fast as "
        "`original` in ONNX Runtime: medians and quartiles of the ratios within a turn, on the machine of the run. "
        "[Speed](#speed) has the ratios of another machine."
    )
    guard = [f"\nThe file of `slim-int8` carries a guard. {told}"] if (told := refused(run)) else []
    return "\n".join([*lines, *over_seeds(run), *shortcut(run), *guard, *older_settings(run)]) + "\n"


def older_settings(run) -> list[str]:
    "In what the trainings of a run differ from those the lab makes now, as Markdown; nothing where they do not"
    made, now = run.info["settings"], json.loads(json.dumps(asdict(LabSettings())))
    pairs = {name: (made[name], now[name]) for name in ("original", "masked")}
    pairs["slim.final"] = made["slim"]["final"], now["slim"]["final"]
    changed = [f"`{name}.{key}` {before[key]:g} (now {after[key]:g})" for name, (before, after) in pairs.items()
               for key in ("epochs", "resample") if before[key] != after[key]]
    if not changed:
        return []
    return [f"\nThis run is older than the last choice of settings, which was made on training patients alone "
            f"(`bench/choose_training.py`). It was trained with {', '.join(changed)}."]


def shortcut(run) -> list[str]:
    "What texture alone tells, and how the networks do where it misleads; nothing where that is not known"
    effects = shortcut_effects(run, models=("original", "masked", "slim-int8"))
    if effects.empty:
        return []
    alone = {split: interval(shortcut_auc(run, "texture", split)) for split in ("val", "test")}
    means = effects.groupby("model", sort=False)[["all_pairs", "misled", "follows_val", "follows_test"]].mean()
    listed = lambda values: ", ".join(values[:-1]) + " and " + values[-1]
    misled, every, following, on_test = (
        listed([f"{value:.{digits}f} (`{name}`)" for name, value in means[column].items()])
        for column, digits in (("misled", 3), ("all_pairs", 3), ("follows_val", 2), ("follows_test", 2))
    )
    return [
        f"\nThe label can be guessed without lungs: details finer than eight pixels alone tell it with an AUC of "
        f"{alone['val']} on validation patients and {alone['test']} on the test set. Over the validation pairs in "
        f"which they mislead, the AUC of the networks is {misled}; over all pairs it is {every}. Within a class, the "
        f"rank correlation of their scores with texture is {following} on validation, and {on_test} on test. These are "
        "means over trainings; the AUC is that of images as they are and of simulated shifts."
    ]


def over_seeds(run) -> list[str]:
    "What several trainings say, as Markdown; nothing where there is one"
    if not (seeds := run.summary.get("seeds")):
        return []
    lines = [
        f"\n{told_first(run)} The shipped file is that of the first training. Over all (mean, 95 % interval, trainings "
        "and patients resampled together; the verdict is on non-inferiority to `original`, within 0.02 of accuracy and "
        "0.01 of AUC):\n",
        "| network | accuracy | AUC | verdict: accuracy, AUC | AUC, another hospital |", "|---|---|---|---|---|",
    ]
    for name, model in seeds["models"].items():
        found = judged(run, name) if name in run.summary["comparisons"] else {}
        verdicts = ", ".join(found[metric]["verdict"] for metric in ("accuracy", "auc")) if found else "—"
        cells = [measured(run, name, "accuracy"), measured(run, name, "auc"), verdicts]
        abroad = measured(run, name, "auc", "external") if "external" in model else "—"
        lines.append(f"| {' | '.join([name, *cells, abroad])} |")
    more = run.info["settings"]["masked"]["epochs"]
    lines.append(f"\nPruned networks were trained longer than `original`, `masked` for {more} epochs more. So a "
                 "difference is that of pruning and of longer training together.")
    return lines


def elsewhere(path: Path = ROOT / "bench/other_hospital.txt") -> str:
    "What the shipped network does on the other hospital's images: a command and what it printed"
    command = "pneumoprune evaluate nih_external_224.zip --table labels.csv --by view"
    return f"```\n$ {command}\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


_MASKED = {"dim=1": "inputs of every layer (`dim=1`)", "dim=0": "outputs of every layer (`dim=0`)",
           "groups": "groups of coupled channels"}


def rivals(path: Path = ROOT / "bench/rivals.json") -> str:
    "What four tools leave of six masked networks, as Markdown"
    found = json.loads(path.read_text(encoding="utf-8"))
    machine, best = found["machine"], best_settings(pd.DataFrame(found["rows"]))
    tools, networks = best.tool.unique(), best.network.unique()
    heads = [f"{machine['masked']:.0%} of the channels masked", *tools]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * len(tools)]
    for masks, rows in best.groupby("masks", sort=False):
        cells = [_left(rows[rows.tool == tool]) for tool in tools]
        lines.append(f"| {' | '.join([_MASKED[masks], *cells])} |")
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    notes = (
        f"The part of the parameters that is left, the mean of {', '.join(networks)}. All outputs stay the same, to "
        "1e-6 in float64, but where the cell says in how many networks they do not.",
        better(best),
        "Case by case, with multiply–accumulates and times: [bench/rivals.md](bench/rivals.md). Measured by "
        f"`python bench/rivals.py` on one thread of an {machine['cpu']} with {versions}; torch-simplify with the "
        "better of its two settings.",
    )
    return "\n".join([*lines, *speed(best, tools), "", *(f"- {note}" for note in notes)]) + "\n"


def _left(rows: pd.DataFrame) -> str:
    "Parameters left by one tool, and in how many networks it fails or changes the outputs"
    other, fails = int((rows.difference > 1e-6).sum()), int(rows.parameters_left.isna().sum())
    counted = (("outputs differ", other), ("fails", fails))
    told = [f"{what} in {count} of {len(rows)}" for what, count in counted if count]
    return ", ".join([f"{rows.parameters_left.mean():.2f}", *told])


def best_settings(rows: pd.DataFrame) -> pd.DataFrame:
    "One row for each tool and case: of its settings one that works, keeps the function, and leaves the least"
    rows = rows.assign(tool=rows.tool.str.split(",").str[0], other=~(rows.difference <= 1e-6))
    rows = rows.sort_values(["other", "parameters_left"], kind="stable", na_position="last")
    return rows.drop_duplicates(["network", "masks", "tool"]).sort_index()


def better(rows: pd.DataFrame) -> str:
    "Where another tool that keeps the function leaves fewer parameters, or fewer multiply-accumulates"
    parts = []
    for column, what in (("parameters_left", "parameters"), ("macs_left", "multiply–accumulates")):
        ours = rows[rows.tool == "compact"].set_index(["network", "masks"])[column]
        others = rows[(rows.tool != "compact") & (rows.difference <= 1e-6)]
        least = [ours[network, masks] for network, masks in zip(others.network, others.masks)]
        less = others[others[column] < np.array(least) - 0.0005]
        cases = [f"{tool} with {masks} on {', '.join(group.network)}"
                 for (tool, masks), group in less.groupby(["tool", "masks"], sort=False)]
        where = f" ({'; '.join(cases)})" if cases else ""
        parts.append(f"leave fewer {what} in {len(less)} of {len(ours)} cases{where}.")
    return (
        f"Other tools that keep the function {' They '.join(parts)} torch-simplify pays for these: it stores "
        "what constants add at every position of a padded map, so that its networks take images of one size only."
    )


def speed(rows: pd.DataFrame, tools) -> list[str]:
    "Median speed-ups over the cases, and what it takes to get there, as rows of Markdown"
    timed = rows[rows.speedup.notna()]
    timed = timed.assign(speedup=[speedup[0] for speedup in timed.speedup]).groupby("tool", sort=False)
    fast, took = timed.speedup.median()[tools], timed.seconds.median()[tools]
    return [f"| times as fast as with masks (one image, median) | {' | '.join(f'{times:.2f}' for times in fast)} |",
            f"| seconds the tool takes (median; `compact` proves in them) | {' | '.join(f'{s:.1f}' for s in took)} |"]


def architectures(path: Path = ROOT / "bench/architectures.csv") -> str:
    "How many architectures `compact` handles, as Markdown"
    table = pd.read_csv(path)
    heads = ["networks", "tried", "compacted", "only with `strict=False`", "not", "parameters left, `dim=1`", "`dim=0`"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * 6]
    names = {
        "torchvision": "torchvision, families of classifiers",
        "segmentation": "torchvision, segmentation",
        "video": "torchvision, video",
        "timm": "timm",
    }
    for source, name in names.items():
        rows = table[table.source == source]
        outcomes = rows.groupby("network").outcome.agg(set)
        strict = sum(found == {"strict"} for found in outcomes)
        loose = sum("loose" in found and found <= {"strict", "loose"} for found in outcomes)
        handled = rows[rows.outcome.isin(["strict", "loose"])]
        medians = [f"{handled[handled.dim == dim].left.median():.2f}" for dim in (1, 0)]
        cells = [
            name,
            *(str(count) for count in (len(outcomes), strict, loose, len(outcomes) - strict - loose)),
            *medians,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def slimming(path: Path = ROOT / "bench/slimming.csv") -> str:
    "Slimming by L2, by torch-pruning's pruner and at random, as Markdown"
    rows = pd.read_csv(path)
    start, final = rows[rows.stage == "0"], rows[rows.stage == "final"]
    budget = final[final.way == "L2"].macs.mean()
    aucs = final.pivot(index="way", columns="seed", values="auc")
    below, seeds = aucs - aucs.loc["L2"], aucs.shape[1]
    error = below.std(axis=1, ddof=1) / seeds**0.5 * t.ppf(0.975, seeds - 1)
    lines = ["| channels chosen by | MACs, M | parameters, M | AUC (SD) | minus L2's (95 %) | seed by seed |"]
    lines.append("|---|" + "---:|" * 5)
    for way, theirs in final.groupby("way", sort=False):
        cells = [f"{theirs[name].mean() / 1e6:.2f}" for name in ("macs", "parameters")]
        cells.append(f"{aucs.loc[way].mean():.4f} ({aucs.loc[way].std(ddof=1):.4f})")
        gap = below.loc[way]
        low, high = gap.mean() - error[way], gap.mean() + error[way]
        told = [f"{gap.mean():+.4f} ({low:+.4f} to {high:+.4f})", ", ".join(f"{value:+.4f}" for value in gap)]
        lines.append("| " + " | ".join([way, *cells, *(["", ""] if way == "L2" else told)]) + " |")
    beyond = [way for way in aucs.index if way != "L2" and abs(below.loc[way].mean()) > error[way]]
    more = [way for way, theirs in final.groupby("way", sort=False) if theirs.macs.mean() > 1.05 * budget]
    reference = json.loads((ROOT / "results/reference/summary.json").read_text(encoding="utf-8"))
    three = reference["models"]["original"]["macs"]
    before = f"{start.macs.mean() / 1e6:.0f} M multiply–accumulates ({three / 1e6:.0f} M before the three equal planes "
    before += f"of a grey image are summed into one), {start.parameters.mean() / 1e6:.0f} M parameters"
    differs = f"{', '.join(beyond)} differs" if beyond else "None is shown, with three seeds, to differ"
    told = f"\nBefore: {before}, AUC {start.auc.mean():.4f}. {differs} from L2."
    if more:
        told += f" {' and '.join(f'`{way}`' for way in more)} end with more multiply–accumulates: no layer may lose"
        told += " more than half of its channels in a round."
    lines.append(told)
    return "\n".join(lines) + "\n"


def _measured(row: dict) -> str:
    "One row of a benchmark: what, median and quartiles, goal and verdict"
    short = lambda number: f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"
    spread = f" ({short(row['q1'])}–{short(row['q3'])})" if row["turns"] > 1 else ""
    verdict = {True: "reached", False: "missed", None: ""}[row.get("reached")]
    return f"| {row['what']} | {short(row['median'])}{spread} {row['unit']} | {row.get('goal', '')} | {verdict} |"


_HEADS = ["| what | measured (quartiles) | goal | |", "|---|---:|---:|---|"]


def benchmarks(path: Path = ROOT / "bench/results.json") -> str:
    "What `make bench` found where there is a goal, as Markdown"
    if not path.exists():
        return "Not measured yet: `make bench`, then `make readme`.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for part in found["parts"].values() for row in part["rows"] if "goal" in row]
    machine, parts = found["machine"], found["parts"].values()
    minutes, data = sum(part["seconds"] for part in parts) / 60, " and ".join(sorted({part["data"] for part in parts}))
    told = (
        f"\nMeasured by `make bench` in {minutes:.0f} minutes (the stages of a lab: in a run made before), with "
        f"{machine['threads']} threads where no number is told, on an {machine['cpu']}; images: {data}. Why goals are "
        "missed, where the time goes and what was tried, comparisons without a goal, and all versions: "
        "[bench/results.md](bench/results.md)."
    )
    return "\n".join([*_HEADS, *map(_measured, rows), told]) + "\n"


def benchmarks_in_full(path: Path = ROOT / "bench/results.json") -> str:
    "Everything that `make bench` found, and for the goals that are missed where the time goes, as Markdown"
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for part in found["parts"].values() for row in part["rows"]]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not row.get("reached", True):
            reasons.setdefault(row.get("why", "not looked into"), []).append(row["what"])
    versions = ", ".join(f"{name} {number}" for name, number in found["machine"]["versions"].items())
    why = [f"- **{'; '.join(whats)}**: {reason}." for reason, whats in reasons.items()]
    missed = ["", "Why goals are missed: where the time goes, and what was tried.", "", *why] if why else []
    head = f"Written by `make readme` from results.json. Measured on an {found['machine']['cpu']} with {versions}."
    return "\n".join([head, "", *_HEADS, *map(_measured, rows), *missed]) + "\n"


def survives(path: Path = ROOT / "tests/survives.json") -> str:
    "What happened to runs in the long tests, and how they ended, as Markdown"
    record = json.loads(path.read_text(encoding="utf-8"))
    hard = record["hard"]["found"]
    told = {  # what a test does to a run, and the expression that selects it
        "killed_at_any_moment": (
            "killed up to three times, {kills:.0f} times in all, at random moments", "killed_at"),
        "killed_in_each_stage": ("killed once, in each of the ten stages", "killed_in"),
        "the_power_goes_at_any_moment": ("the power fails, and what was not synced is lost", "power"),
        "any_file_operation_fails": (
            "a file operation fails, and all after it: one line, exit code 2", "operation"),
        "a_disk_without_room_whatever_language_writes": (
            "no room for a file of more than 1,000, or 100,000, bytes: one line, exit code 2", "room"),
        "a_damaged_file_is_named_and_made_anew": (
            "{damages:.0f} damages (a bit flipped, a file cut, emptied, deleted), each named by `check`", "damaged"),
    }  # fmt: skip
    lines = ["| what happened to a run | went on to the same end, to the last bit | shown by |", "|---|---|---|"]
    for name, (what, chosen) in told.items():
        if one := hard.get(name):
            command = f"pytest -m hard tests/test_reliability.py -k {chosen}"
            ended = f"{one['tests'] - one['failed']:.0f} of {one['tests']:.0f}"
            lines.append(f"| {what.format(**one)} | {ended} | `{command}` |")
    return "\n".join([*lines, "", *_strangers(record), _made(record)]) + "\n"


def _strangers(record: dict) -> list[str]:
    "What is said of mistakes and of files changed at random, as Markdown"
    lines, bad = [], record["hard"]["found"].get("all_bad_inputs")
    if bad and not bad["failed"]:
        lines.append(
            f"{bad['inputs']:.0f} mistakes and files that are none ended in one line with the remedy and exit code 2, "
            f"with nothing written, within {bad['seconds']:.0f} s and {bad['mb']:.0f} MB "
            "(`pytest -m hard tests/test_bad_inputs.py`).\n"
        )
    if "fuzz" in record:
        kinds = ", ".join(f"{name} {runs:,}" for name, runs in record["fuzz"]["found"].items())
        lines.append(f"Files changed at random were read or refused, nothing else: {kinds} (`make fuzz`).\n")
    return lines


def _made(record: dict) -> str:
    "When and with what, and how well the tests watch the code"
    dates = ", ".join(sorted({one["date"] for one in record.values()}))
    versions = ", ".join(f"{name} {number}" for name, number in record["hard"]["versions"].items())
    told = [f"Recorded from tests that ran to their end, {dates}, with {versions}. `make survives` runs all of them."]
    if "coverage" in record:
        percent = record["coverage"]["found"]["percent"]
        told.append(f"Chapters and tests together reach {percent:g} % of the lines (`make coverage`).")
    if "mutants" in record:
        counts = {kind: sum(by.values()) for kind, by in record["mutants"]["found"].items()}
        told.append(
            f"Of {sum(counts.values())} random changes of compaction, evaluation, pruning and slimming, "
            f"{counts['equivalent']} change nothing that can be observed; of the others the tests notice "
            f"{counts['killed']}, {counts['killed'] / (counts['killed'] + counts['survived']):.0%} (`make mutants`)."
        )
    return " ".join(told)


WRITERS = {
    "survives": survives, "results": results, "speed": benchmarks, "rivals": rivals, "architectures": architectures,
    "slimming": slimming, "elsewhere": elsewhere,
}  # fmt: skip


def with_results(text: str) -> str:
    "README text with what was measured between the markers"
    return MARKERS.sub(lambda found: found[1] + WRITERS[found[2]]() + found[3], text)


def write_cards(folder: Path = ROOT / "pneumoprune/models", run: Path = ROOT / "results/reference") -> None:
    "The cards of the shipped model and of its data, beside it"
    folder.joinpath("README.md").write_text(model_card(load_run(run)), encoding="utf-8")
    folder.joinpath("DATA.md").write_text(data_card(load_run(run)), encoding="utf-8")


if __name__ == "__main__":
    write_cards()
    (ROOT / "bench/results.md").write_text(benchmarks_in_full(), encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_results(readme.read_text(encoding="utf-8")), encoding="utf-8")
