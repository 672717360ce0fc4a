"Take progress bars, warnings and paths of this machine (the error stream, widgets) out of the saved outputs of notebooks"

import sys

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"

for path in sys.argv[1:]:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kept = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in kept if WIDGET not in output.get("data", {})]
    nbformat.write(notebook, path)
