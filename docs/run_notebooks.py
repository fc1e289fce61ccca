"""python docs/run_notebooks.py [NAME …]: the notebooks of docs/tutorials, all or these, keep what comes out of a run."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "tutorials"

os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `detector` is
for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
    notebook = FOLDER / f"{name}.ipynb"
    book = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(book, timeout=None, record_timing=False, resources=where).execute()
    nbformat.write(book, notebook)
    print(f"run: {notebook}")
