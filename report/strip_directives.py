#!/usr/bin/env python3
"""Notebook filter for the report: notebook JSON on stdin, the notebook a reader should see on stdout.

Quarto runs it through `ipynb-filters:` in _quarto.yml, `pneumoprune report` does the same without Quarto. It needs
nothing but the standard library, so any Python 3 can run it.

What it does:

* cells marked `#| hide` or `#| default_exp` are dropped;
* nbdev's bare directives (`#| export`, `#| exports` …) are dropped from the top of a cell, since they are not YAML;
  `#| hide_input` and `#| hide_output` become the options a renderer knows; lines with a colon
  (`#| label: fig-x`) stay;
* what a cell wrote to stderr (progress bars, warnings) is dropped, and long printed output is shortened;
* every cell's source is written as a list of lines (Quarto loses the line breaks of a single string).
"""

import json
import re
import sys

DIRECTIVE = re.compile(r"^\s*#\s?\|\s*(.*?)\s*$")
OPTION = re.compile(r"^[\w-]+:(\s|$)")  # `label: fig-x`, which is YAML
DROPPED_CELLS = {"hide", "default_exp"}
RENAMED = {"hide_input": "#| echo: false\n", "hide_output": "#| output: false\n"}
MAX_LINES, HEAD, TAIL = 24, 16, 4


def split_directives(source):
    "The directives at the top of a cell (without `#|`) and the lines under them"
    lines = source.splitlines(keepends=True)
    directives = []
    for n, line in enumerate(lines):
        match = DIRECTIVE.match(line)
        if match:
            directives.append(match.group(1))
        elif line.strip():
            return directives, lines[n:]
    return directives, []


def visible_source(source):
    "Lines of the code cell as a renderer should get them, or None when the cell is not for readers"
    directives, code = split_directives(source)
    kept = []
    for directive in directives:
        name = directive.split()[0] if directive else ""
        if name in DROPPED_CELLS:
            return None
        if OPTION.match(directive):
            kept.append(f"#| {directive}\n")
        elif name in RENAMED:
            kept.append(RENAMED[name])
    return kept + code


def shorten(text):
    "What a terminal would show in the end (progress bars overwrite themselves), the middle cut out when it is long"
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]
    if len(lines) > MAX_LINES:
        lines[HEAD:-TAIL] = [f"… ({len(lines) - HEAD - TAIL} more lines)"]
    return [line + "\n" for line in lines]


def visible_outputs(outputs):
    "Outputs without stderr, printed text shortened"
    kept = []
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] == "stderr":
                continue
            output["text"] = shorten("".join(output["text"]))
        kept.append(output)
    return kept


def strip(notebook):
    "The notebook (parsed JSON) without what is only for nbdev"
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            lines = visible_source(source)
            if lines is None:
                continue
            cell["source"] = lines
            cell["outputs"] = visible_outputs(cell["outputs"])
        else:
            cell["source"] = source.splitlines(keepends=True)
        cells.append(cell)
    notebook["cells"] = cells
    return notebook


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8")
    json.dump(strip(json.load(sys.stdin)), sys.stdout, ensure_ascii=False)
