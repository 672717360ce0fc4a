"Model card and data card of any run: true of it, whatever it has or lacks, and what comes from a file stays data"

from dataclasses import replace

import pandas as pd
import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from simulated import simulated_run

from pneumoprune.cards import data_card, model_card
from pneumoprune.core import PneumopruneError
from pneumoprune.phrases import interval, use_language
from pneumoprune.run import KERMANY

RUN = simulated_run(1, synthetic=False, seeds=3, external=True)
HOSTILE = "a`|<b>`\n# c\n| 1 | 2 |\n---\nyes: no"


def told_with(run, **changes):
    "A run whose run.json tells something else of its images; None leaves an entry out"
    changed = {key: run.info[key] | change for key, change in changes.items()}
    changed = {key: {k: v for k, v in about.items() if v is not None} for key, about in changed.items()}
    return replace(run, info=run.info | changed)


def parsed(card):
    "The text of a card as a tree: kinds and contents of its blocks; a head is no part of it"
    return MarkdownIt("commonmark").enable("table").parse(card.partition("\n---\n")[2])


def headings(card):
    blocks = parsed(card)
    return [text.content for opened, text in zip(blocks, blocks[1:]) if opened.type == "heading_open"]


def rows(card):
    "The cells of every row of every table"
    found: list[list[str]] = []
    for block, inner in zip(parsed(card), parsed(card)[1:]):
        if block.type == "tr_open":
            found.append([])
        elif block.type in ("td_open", "th_open"):
            found[-1].append(inner.content)
    return found


def test_the_file_stands_before_the_mean_over_trainings():
    card = model_card(RUN)
    own, method = card.index("### This file"), card.index("### The method, over 3 trainings")
    one, over = RUN.summary["models"]["slim-int8"], RUN.summary["seeds"]["models"]["slim-int8"]
    for split in ("validation", "test", "external"):
        name = "`elsewhere.zip`, another hospital" if split == "external" else split
        lines = [f"| {name} | {interval(found[split]['auc'])} |" for found in (one, over)]
        assert own < card.index(lines[0]) < method < card.rindex(lines[1])
    assert "90 `NORMAL`, 80 `PNEUMONIA`, of 85 patients" in card


def test_the_head_names_each_set_of_images_as_its_own():
    "Two archives of one name are still two, and machines read the numbers of the file"
    run = told_with(RUN, external={"name": RUN.info["data"]["name"]})
    results = ModelCard(model_card(run)).data.eval_results
    assert len(results) == 8
    for result in results:
        split = {"test": "test", "all": "external"}[result.dataset_split]
        assert result.dataset_revision == run.info["data" if split == "test" else "external"]["fingerprint"]
        if result.metric_type == "roc_auc":
            assert result.metric_value == round(run.summary["models"]["slim-int8"][split]["auc"][0], 4)


def test_a_run_is_told_only_what_it_has():
    "One training, no other hospital, phantoms, no guard, no shortcuts"
    run = replace(simulated_run(2), shortcuts=pd.DataFrame())
    card, images = model_card(run), data_card(run)
    assert [result.dataset_split for result in ModelCard(card).data.eval_results] == ["test"] * 4
    for word in ("The method", "another hospital", "Shortcuts examined", "distance", "guard", "seed-", "None ", "nan"):
        assert word not in card, word
    assert "Made of phantoms" in card and "images from elsewhere was not measured" in card
    assert "Validation: drawn as such" in images and "Validation: that of the source" in data_card(RUN)
    assert "Another hospital" not in images and "The program that drew an image gave its label." in images
    assert {len(cells) for cells in rows(card)} == {7} and {len(cells) for cells in rows(images)} == {5}


def test_a_guard_is_told_where_there_is_one(tmp_path):
    "Shares with their numbers of images, where guard.csv is there; a damaged one is one line"
    run = replace(RUN, summary=RUN.summary | {"guard": {"refused": {"val": 0.25, "other": 1.0}}}, folder=tmp_path)
    card = model_card(run)
    assert "if distance.item() > 1" in card and "The guard refuses 25.0% of the validation images" in card
    assert "distance" not in model_card(RUN) and '[probability] = session.run(["probability"],' in model_card(RUN)
    (tmp_path / "guard.csv").write_text("split,distance\nval,0\nval,0\nval,0\nval,2\nother,2\n", encoding="utf-8")
    card = model_card(run)
    assert "refuses 25.0% of the 4 validation images" in card and "all of the 1 drawn or freely licensed" in card
    for damage in (b"", b"\xff\xfe\0", b"name\nval\n"):
        (tmp_path / "guard.csv").write_bytes(damage)
        with pytest.raises(PneumopruneError, match="run the lab again"):
            model_card(run)


def test_a_licence_is_given_for_what_it_covers():
    "The shipped file has the package's; weights of another run none, though its images be the known ones"
    kermany = told_with(RUN, data={"fingerprint": KERMANY})
    assert ModelCard(model_card(kermany)).data.license is None and ModelCard(model_card(RUN)).data.license is None
    assert "the one who made the run has to say" in model_card(kermany)
    known, unknown = DatasetCard(data_card(kermany)).data, DatasetCard(data_card(RUN)).data
    assert known.license == "cc-by-4.0" and unknown.license is None
    assert known.annotations_creators == ["expert-generated"] and unknown.annotations_creators is None


def test_slim_has_a_card_and_networks_without_a_file_have_none():
    card = model_card(RUN, "slim")
    assert 'InferenceSession("slim.onnx")' in card and "eight bits." not in card
    assert ModelCard(card).data.tags == ["medical", "chest-x-ray", "pruning"]
    for name in ("masked", "original", "no such"):
        with pytest.raises(PneumopruneError, match="give slim or slim-int8"):
            model_card(RUN, name)
    with pytest.raises(PneumopruneError, match="a run with slim"):
        model_card(simulated_run(3, models=("original",)))


def test_names_from_a_run_stay_names():
    "Neither markup, nor a heading, nor a cell of a table, nor an entry of the head"
    hostile = {"name": HOSTILE, "fingerprint": HOSTILE, "notes": [HOSTILE],
               "table": {"name": HOSTILE, "sha256": HOSTILE}}  # fmt: skip
    named = told_with(RUN, data=hostile, external=hostile)
    classes = {split: {HOSTILE: 3, "other": 4} for split in ("train", "val", "test")}
    for run in (named, told_with(named, data={"counts": classes}, external={"counts": classes["test"]})):
        card, images = model_card(run), data_card(run)
        plain, plain_images = model_card(RUN), data_card(RUN)
        assert headings(card) == headings(plain) and len(headings(images)) == len(headings(plain_images))
        assert [len(cells) for cells in rows(card)] == [len(cells) for cells in rows(plain)]
        assert [len(cells) for cells in rows(images)] == [len(cells) for cells in rows(plain_images)]
        for block in (*parsed(card), *parsed(images)):
            assert block.type != "html_block" and all(part.type != "html_inline" for part in block.children or ())
        assert {result.dataset_name for result in ModelCard(card).data.eval_results} == {HOSTILE}
        assert DatasetCard(images).data.pretty_name == HOSTILE


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"size": None}},
        {"data": {"counts": {"train": {"NORMAL": "many"}}}},
        {"data": {"patients": {"train": [], "val": [], "test": []}}},
        {"external": {"name": None}},
        {"external": {"counts": {"NORMAL": None}}},
    ],
)
def test_a_damaged_run_is_one_line(changes):
    for write in (model_card, data_card):
        with pytest.raises(PneumopruneError) as caught:
            write(told_with(RUN, **changes))
        assert "\n" not in str(caught.value) and "run the lab again" in str(caught.value)


def test_images_of_another_hospital_are_in_both_files_or_in_none():
    for info in (RUN.info | {"external": None}, {key: value for key, value in RUN.info.items() if key != "external"}):
        with pytest.raises(PneumopruneError, match="different images of another hospital; run the lab again"):
            model_card(replace(RUN, info=info))


def test_a_card_is_english_whatever_the_report_is():
    english = model_card(RUN), data_card(RUN)
    with use_language("ru"):
        assert (model_card(RUN), data_card(RUN)) == english
