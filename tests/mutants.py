"""
Would the tests notice a small change of the code? `make mutants` changes one thing at a time, at random but always
alike, in compaction, evaluation, pruning and slimming, and tries the assertions of the chapters and the tests that
reach the changed line, the quickest first. Each trial is forked from a process that has PyTorch loaded.

    python tests/mutants.py [--number 300] [--jobs 2] [--folder .mutants]

What was tried already is kept in the folder, and not tried again while the modules are the same. What survives is in
`survivors.txt` there; those that change nothing stand with their reasons in `tests/equivalent_mutants.txt`.
"""

import argparse
import ast
import importlib
import importlib.util
import json
import keyword
import multiprocessing
import os
import random
import resource
import sys
import time
import tokenize
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from io import StringIO
from pathlib import Path

import chapters

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = {
    "evaluation": "05_evaluation", "pruning": "13_pruning", "channels": "14_channels", "graph": "15_graph",
    "cut": "16_cut", "compaction": "17_compaction", "slimming": "20_slimming",
}  # fmt: skip
FILES = ["evaluation", "mutants", "compaction", "tracing", "breadth", "assessment", "oracles"]
SECONDS = 12  # on the processor, that the tests of one mutant may take together; the quickest come first
FORK = multiprocessing.get_context("fork")


def load() -> None:
    "All that is not ours; our own modules are imported anew in each trial"
    import warm

    warm.load()
    import hypothesis  # noqa: F401
    import IPython  # noqa: F401
    import pytest  # noqa: F401
    import torchvision  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] == "pneumoprune"]:
        del sys.modules[name]


# -------------------------------------------------------------------------------- what is run


def run_chapter(module: str) -> None:
    chapters.run(ROOT / f"nbs/{CHAPTERS[module]}.ipynb")


class Watch:
    "A plugin of pytest: who runs, and how long"

    def __init__(self, started):
        self.started, self.seconds, self.begun = started, {}, 0.0

    def pytest_runtest_logstart(self, nodeid):
        self.begun = time.process_time()
        self.started(nodeid)

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = time.process_time() - self.begun


def run_tests(names: list[str], watch: Watch) -> int:
    import pytest

    os.chdir(ROOT)
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "--assert=plain", "-x", "-q", "-m", "not hard"]
    return int(pytest.main([*options, *names], plugins=[watch]))


# -------------------------------------------------------------------------------- who reaches what


def reach(send) -> None:
    "In a process of its own: the seconds of every test, and the lines of our modules that it reaches"
    import coverage

    silent()
    modules = {str(ROOT / f"pneumoprune/{name}.py"): name for name in CHAPTERS}
    watched = coverage.Coverage(data_file=None, include=list(modules), messages=False)
    watched.start()
    watch, seconds = Watch(watched.switch_context), {}
    for name in CHAPTERS:
        importlib.import_module(f"pneumoprune.{name}")
    for name in CHAPTERS:
        begun = time.process_time()
        watched.switch_context(name)
        run_chapter(name)
        seconds[name] = time.process_time() - begun
    code = run_tests([f"tests/test_{name}.py" for name in FILES], watch)
    watched.stop()
    data = watched.get_data()
    lines = {name: data.contexts_by_lineno(path) for path, name in modules.items()}
    send.send({"code": code, "seconds": seconds | watch.seconds, "lines": lines})


def reached(folder: Path) -> dict:
    "The same, from the folder where it is there"
    path = folder / "reached.json"
    if not path.exists():
        receive, send = FORK.Pipe(duplex=False)
        process = FORK.Process(target=reach, args=(send,))
        process.start()
        send.close()
        try:
            found = receive.recv()
        except EOFError:
            sys.exit("a chapter fails as it is; look with `python tests/chapters.py`")
        if found["code"]:
            sys.exit("the tests fail as they are")
        path.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------- what is changed


def annotations(source: str) -> set[tuple[int, int]]:
    "Places (line, column) inside of annotations: what is written there has no effect"
    places = set()
    for node in ast.walk(ast.parse(source)):
        for inner in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            for part in ast.walk(inner) if isinstance(inner, ast.AST) else ():
                if isinstance(part, ast.expr):
                    for line in range(part.lineno, (part.end_lineno or part.lineno) + 1):
                        places |= {(line, column) for column in range(part.col_offset, part.end_col_offset or 0)}
    return places


def stars(source: str) -> set[tuple[int, int]]:
    "Places of stars that multiply nothing: arguments by keyword only, and those that are unpacked"
    found, before = set(), None
    for token in tokenize.generate_tokens(StringIO(source).readline):
        after = before is not None and (before.type in (tokenize.NAME, tokenize.NUMBER) or before.string in ")]}")
        if token.string in ("*", "**") and (not after or before.string in keyword.kwlist):
            found.add(token.start)
        if token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
            before = token
    return found


def mutants(module: str) -> list[dict]:
    "Every change that cosmic-ray's operators make of a module"
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source, found = (ROOT / f"pneumoprune/{module}.py").read_text(encoding="utf-8"), []
    without_effect, lines, tree = annotations(source) | stars(source), source.splitlines(), get_ast(source)
    digest = sha256(source.encode()).hexdigest()[:16]
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = [place for node in ast_nodes(tree) for place in operator().mutation_positions(node)]
        for number, (start, end) in enumerate(places):
            if tuple(start) not in without_effect and not lines[start[0] - 1].startswith("__all__"):
                place = {"occurrence": number, "line": start[0], "last": end[0]}
                found.append({"module": module, "digest": digest, "operator": name} | place)
    return found


def changed(mutant: dict) -> tuple[str, str]:
    "The source of the module with the change, and the change as a text, the same as long as its line is"
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / f"pneumoprune/{mutant['module']}.py").read_text(encoding="utf-8")
    text = mutate_code(source, get_operator(mutant["operator"])(), mutant["occurrence"])
    before, after = source.splitlines(), text.splitlines()
    at = next((i for i, (old, new) in enumerate(zip(before, after)) if old != new), 0)
    return text, f"{mutant['module']}: {before[at].strip()} -> {after[at].strip()}"


class Changed(SourceFileLoader):
    "Imports a module with another source"

    def __init__(self, name: str, source: str):
        super().__init__(f"pneumoprune.{name}", str(ROOT / f"pneumoprune/{name}.py"))
        self.source = source

    def get_code(self, fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)


# -------------------------------------------------------------------------------- the trials


def silent() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)


def limit(seconds: float) -> None:
    "An endless loop, or memory without end, is noticed too"
    last = int(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (last, last))
    resource.setrlimit(resource.RLIMIT_DATA, (8 * 2**30, 8 * 2**30))


def trial(mutant: dict, tests: list[str], seconds: float, send) -> None:
    "In a process of its own: run the tests on the changed module; sends who noticed"
    silent()
    source, told = changed(mutant)
    send.send(told)
    if not tests:
        os._exit(0)
    limit(3 * seconds + 10)
    sys.meta_path.insert(0, Changed(mutant["module"], source))
    watch = Watch(lambda _: None)
    if (files := [name for name in tests if name not in CHAPTERS]) and run_tests(files, watch):
        send.send(list(watch.seconds)[-1] if watch.seconds else "import")
        os._exit(1)
    for name in [name for name in tests if name in CHAPTERS]:
        try:
            run_chapter(name)
        except BaseException as error:
            send.send(f"{name}: {type(error).__name__}")
            os._exit(1)
    send.send("")
    os._exit(0)


def tried(mutant: dict, known: dict) -> dict:
    "The mutant with who noticed it: an empty text where nobody did"
    lines = known["lines"][mutant["module"]]
    here = [str(line) for line in range(mutant["line"], mutant["last"] + 1)]
    who = {name for line in here for name in lines.get(line, ())}
    at_import = "" in who or not who & set(known["seconds"])
    names = sorted(known["seconds"] if at_import else who & set(known["seconds"]), key=known["seconds"].get)
    names = names if any(line in lines for line in here) else []
    chosen, total = [], 0.0
    for name in names:
        if total + known["seconds"][name] < SECONDS or name == mutant["module"]:
            chosen.append(name)
            total += known["seconds"][name]
    begun = time.perf_counter()
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=trial, args=(mutant, chosen, total, send))
    process.start()
    send.close()
    told = receive.recv()
    try:
        noticed = receive.recv() if chosen else ""
    except EOFError:
        noticed = "out of time or memory"
    process.join()
    why = "" if noticed else f"{len(chosen)} of {len(names)} tests"
    return mutant | {"told": told, "noticed": noticed, "why": why, "wall": round(time.perf_counter() - begun, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / ".mutants")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    load()
    known = reached(options.folder)
    every = [mutant for module in CHAPTERS for mutant in mutants(module)]
    drawn = random.Random(0).sample(every, min(options.number, len(every)))
    path = options.folder / "tried.jsonl"
    done = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    before = {key(one): one for one in done}
    open_ones = [one for one in drawn if key(one) not in before]
    print(f"{len(every)} mutants, {len(drawn)} drawn, {len(drawn) - len(open_ones)} tried before", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool, open(path, "a", encoding="utf-8") as file:
        for one in pool.map(lambda mutant: tried(mutant, known), open_ones):
            print(json.dumps(one), file=file, flush=True)
            before[key(one)] = one
    report([before[key(one)] for one in drawn], options.folder)


def key(mutant: dict) -> tuple:
    return tuple(mutant[name] for name in ("module", "digest", "operator", "occurrence"))


def report(found: list[dict], folder: Path) -> None:
    "What was noticed, by module; the survivors are written to a file"
    listed = (ROOT / "tests/equivalent_mutants.txt").read_text(encoding="utf-8").splitlines()
    equivalent = {line.partition("  # ")[0] for line in listed if line and not line.startswith("#")}
    kinds = Counter(
        (one["module"], "killed" if one["noticed"] else "equivalent" if one["told"] in equivalent else "survived")
        for one in found
    )
    for module in CHAPTERS:
        print(f"{module:12}", *(f"{kinds[module, kind]:4} {kind}" for kind in ("killed", "equivalent", "survived")))
    total = {kind: sum(kinds[m, kind] for m in CHAPTERS) for kind in ("killed", "equivalent", "survived")}
    share = total["killed"] / max(1, total["killed"] + total["survived"])
    counts = {kind: {m: kinds[m, kind] for m in CHAPTERS} for kind in total}
    (folder / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    print(f"together: {total}, {share:.1%} of those that change behaviour are noticed")
    survivors = [f"{one['told']}  # {one['why']}, line {one['line']}" for one in found
                 if not one["noticed"] and one["told"] not in equivalent]
    (folder / "survivors.txt").write_text("\n".join(survivors) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
