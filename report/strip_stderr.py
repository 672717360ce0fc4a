"""
Take progress bars, warnings and paths of this machine (the error stream) out of the saved outputs of notebooks, and
join what was printed in pieces: where the pieces end depends on the moment.
"""

import sys

import nbformat


def is_noise(output) -> bool:
    "The error stream, or a progress bar of Jupyter's"
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def joined(outputs: list) -> list:
    "With one output for what was printed without anything in between"
    whole: list = []
    for output in outputs:
        if whole and output.get("name") == whole[-1].get("name") == "stdout":
            whole[-1]["text"] += output["text"]
        else:
            whole.append(output)
    return whole


for path in sys.argv[1:]:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined([output for output in cell.outputs if not is_noise(output)])
    notebook.metadata.pop("widgets", None)  # what progress bars leave behind
    nbformat.write(notebook, path)
