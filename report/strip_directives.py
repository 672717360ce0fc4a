#!/usr/bin/env python3
"""Notebook filter for the report: notebook JSON on stdin, the notebook a reader should see on stdout.

Quarto runs it through `ipynb-filters:` in _quarto.yml, `pneumoprune report` does the same without Quarto. It needs
nothing but the standard library, so any Python 3 can run it.

What it does:

* cells marked `#| hide` or `#| default_exp` are dropped;
* nbdev's bare directives (`#| export`, `#| exports` …) are dropped from the top of a cell, since they are not YAML;
  `#| hide_input` and `#| hide_output` become the options a renderer knows; lines with a colon
  (`#| label: fig-x`) stay;
* exported code is abridged: imports go, and of long helpers (names with a leading underscore) the signature and the
  first lines of documentation stay; the module has the rest;
* tables become Markdown with raw HTML in it, since Quarto adds scripts from content networks to notebooks with HTML;
  they lose a caption of their own (a Styler's), which would stand beside the cell's `tbl-cap`;
* what a cell wrote to stderr (progress bars, warnings) is dropped, and long printed output is shortened;
* every cell's source is written as a list of lines (Quarto loses the line breaks of a single string).
"""

import ast
import json
import re
import sys

DIRECTIVE = re.compile(r"^\s*#\s?\|\s*(.*?)\s*$")
OPTION = re.compile(r"^[\w-]+:(\s|$)")  # `label: fig-x`, which is YAML
DROPPED_CELLS = {"hide", "default_exp"}
RENAMED = {"hide_input": "#| echo: false\n", "hide_output": "#| output: false\n"}
EXPORTED = {"export", "exports", "exporti"}
MAX_LINES, HEAD, TAIL = 24, 16, 4  # of printed output
MAX_HELPER = 8  # lines of a helper that is shown whole


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


def abridge(lines, module):
    "Exported code without its imports and without the inside of long helpers"
    try:
        statements = ast.parse("".join(lines)).body
    except SyntaxError:
        return lines
    lines = [line.rstrip("\n") + "\n" for line in lines]
    for statement in reversed(statements):
        first, last = statement.lineno - 1, statement.end_lineno
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            del lines[first:last]
        elif getattr(statement, "name", "").startswith("_") and last - first > MAX_HELPER:
            documented = ast.get_docstring(statement) is not None
            body = statement.body[0]
            shown = body.end_lineno if documented else min([body.lineno] + [d.lineno for d in _decorators(body)]) - 1
            if last - shown > 2:
                lines[shown:last] = [f"    # … {last - shown} more lines in {module}\n"]
    # one empty line between definitions is enough in print
    return "".join(lines).strip("\n").replace("\n\n\n", "\n\n").splitlines(keepends=True)


def _decorators(statement):
    return getattr(statement, "decorator_list", [])


def visible_source(source, module):
    "Lines of the code cell as a renderer should get them, or None when the cell is not for readers"
    directives, code = split_directives(source)
    if EXPORTED & {directive.split()[0] for directive in directives if directive}:
        code = abridge(code, module)
    kept = []
    for directive in directives:
        name = directive.split()[0] if directive else ""
        if name in DROPPED_CELLS:
            return None
        if OPTION.match(directive):
            kept.append(f"#| {directive}\n")
        elif name in RENAMED:
            kept.append(RENAMED[name])
    return kept + code if code else None


def shorten(text):
    "What a terminal would show in the end (progress bars overwrite themselves), the middle cut out when it is long"
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]
    if len(lines) > MAX_LINES:
        lines[HEAD:-TAIL] = [f"… ({len(lines) - HEAD - TAIL} more lines)"]
    return [line + "\n" for line in lines]


def tidy_table(html):
    """An HTML table fit for print: no caption of its own, pandas' second header row (which only names the index) moved
    into the empty corner of the first, and no cell that Typst would take for a heading or a list (`= used`)"""
    # pandas' own alignment goes with its style: the templates know numbers from words, column by column
    html = re.sub(r"<caption\b.*?</caption>|<style scoped>.*?</style>", "", html, flags=re.S)
    html = html.replace('<tr style="text-align: right;">', "<tr>")
    html = re.sub(r"(<t[hd]\b[^>]*>\s*)([=+/-]+\s)", "\\1\u2060\\2", html)
    head = re.search(r"<thead>(.*?)</thead>", html, re.S)
    rows = re.findall(r"<tr\b.*?</tr>", head.group(1), re.S) if head else []
    if len(rows) != 2:
        return html
    first, second = (re.findall(r"<th\b[^>]*>(.*?)</th>", row, re.S) for row in rows)
    empty = {"", "&nbsp;"}
    if len(first) == len(second) and first[0].strip() in empty and {text.strip() for text in second[1:]} <= empty:
        corner = re.sub(r"(<th\b[^>]*>).*?(</th>)", lambda m: m[1] + second[0] + m[2], rows[0], count=1, flags=re.S)
        html = html.replace(rows[1], "").replace(rows[0], corner)
    return html


def visible_outputs(outputs):
    "Outputs without stderr, what was printed in one piece and shortened, tables fit for print"
    kept, printed = [], None
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] == "stderr":
                continue
            if printed is not None:  # a kernel hands over what is printed in several pieces
                printed["text"] = "".join(printed["text"]) + "".join(output["text"])
                continue
            printed = output
        else:
            printed = None
            data = output.get("data", {})
            if "text/html" in data:  # as Markdown: for HTML, Quarto loads scripts from elsewhere
                data["text/markdown"] = f"```{{=html}}\n{tidy_table(''.join(data.pop('text/html')))}\n```"
        kept.append(output)
    for output in kept:
        if output["output_type"] == "stream":
            output["text"] = shorten("".join(output["text"]))
    return kept


def module_of(notebook):
    "Where the notebook's code is exported to, for pointing there"
    for cell in notebook["cells"]:
        match = re.search(r"^#\s?\|\s*default_exp\s+([\w.]+)", "".join(cell["source"]), re.M)
        if cell["cell_type"] == "code" and match:
            return f"pneumoprune/{match.group(1).replace('.', '/')}.py"
    return "the module"


def strip(notebook):
    "The notebook (parsed JSON) without what is only for nbdev"
    module = module_of(notebook)
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            lines = visible_source(source, module)
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
