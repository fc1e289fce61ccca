"""The notebooks of docs/tutorials run as they stand; the cells that assert hold their text to what came out."""

import os
import shutil
import sys
from pathlib import Path

import pytest

for package in ("nbclient", "ipykernel", "fastapi"):
    pytest.importorskip(package, reason=f"make test-extras installs {package}")

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
PATIENCE = 1800  # s, a cell


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_notebook(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in FOLDER.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    programs = Path(sys.executable).parent  # where `detector` is
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    book = nbformat.read(tmp_path / name, as_version=4)
    client = NotebookClient(book, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises CellExecutionError
