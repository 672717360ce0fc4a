"""
What `README.md` says of tests that take long stands in `survives.json`, which this writes from what they leave:

    python tests/survives.py hard REPORT.xml [REPORT.xml …]     of `pytest -m hard --junitxml`
    python tests/survives.py fuzz FOLDER                        with a log of each kind of file
    python tests/survives.py mutants FOLDER                     of `mutants.py`
    python tests/survives.py coverage PERCENT
"""

import json
import platform
import re
import sys
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

RECORD = Path(__file__).with_name("survives.json")


def hard(*reports: str) -> dict:
    "Per test function: how many ran, how many failed, and the sum or the largest of what they recorded"
    cases = {case.get("name", ""): case for report in reports for case in ElementTree.parse(report).iter("testcase")}  # noqa: S314
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"tests": 0, "failed": 0})
    for name, case in cases.items():
        if case.find("skipped") is None:
            one = found[name.partition("[")[0].removeprefix("test_")]
            one["tests"] += 1
            one["failed"] += any(case.find(kind) is not None for kind in ("failure", "error"))
            for told in case.iter("property"):
                key, value = told.get("name", ""), float(told.get("value", 0))
                largest = key in ("seconds", "mb", "operations")
                one[key] = round(max(one.get(key, 0), value) if largest else one.get(key, 0) + value, 1)
    return dict(found)


def fuzz(folder: str) -> dict:
    "How many files of each kind were tried"
    texts = {log.stem: log.read_text(encoding="utf-8", errors="replace") for log in sorted(Path(folder).glob("*.log"))}
    runs = {kind: re.findall(r"stat::number_of_executed_units: *(\d+)", text) for kind, text in texts.items()}
    return {kind: sum(map(int, counts)) for kind, counts in runs.items() if counts}


def mutants(folder: str) -> dict:
    return json.loads(Path(folder, "counts.json").read_text(encoding="utf-8"))


def coverage(percent: str) -> dict:
    return {"percent": float(percent)}


def main(kind: str, *arguments: str) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("torch", "onnxruntime")}
    made = {"hard": hard, "fuzz": fuzz, "mutants": mutants, "coverage": coverage}[kind](*arguments)
    record[kind] = {"date": datetime.now(UTC).date().isoformat(), "versions": versions, "found": made}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
