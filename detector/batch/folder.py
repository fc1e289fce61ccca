"""Where results are: a folder of this machine or one behind a URL. Its files are there whole or not at all."""

from collections.abc import Callable
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

from detector.utils.fileio import (
    atomic_write,
    put_json_if_absent,
    remove_unfinished,
    require_writable,
    temporary_dir,
    write_json,
    writing,
)
from detector.utils.stores import Store, is_remote


class LocalFolder:
    """A folder of this machine, or one that machines share. Names are paths from it on; what can't be written is a WriteError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def require_usable(self) -> None:
        """Raise DetectorError kinds for what can be known before the work: no such store, no right to write."""
        require_writable(self._path)

    def make(self, subfolder: str) -> None:
        """Make a subfolder, if need be."""
        with writing(self._path / subfolder):
            (self._path / subfolder).mkdir(exist_ok=True)
        require_writable(self._path / subfolder)

    def clean(self, subfolder: str) -> None:
        """Remove what processes that were killed have left."""
        remove_unfinished(self._path / subfolder)

    def exists(self, name: str) -> bool:
        return (self._path / name).exists()

    def names(self, subfolder: str) -> set[str]:
        """The names in a subfolder, which need not exist."""
        return {path.name for path in (self._path / subfolder).glob("*")}

    def open(self, name: str) -> BufferedIOBase:
        """A file to read. Raises FileNotFoundError if there is none."""
        return (self._path / name).open("rb")

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Have `write` fill a temporary file, and put it in the place of the file."""
        atomic_write(self._path / name, write)

    def remove(self, name: str) -> None:
        """Remove a file, which may be gone already."""
        with writing(self._path / name):
            (self._path / name).unlink(missing_ok=True)

    def put_json_if_absent(self, name: str, value: Any) -> bool:
        """Write `value` as JSON unless there is such a file; whether it was written."""
        return put_json_if_absent(self._path / name, value)


class RemoteFolder:
    """A folder behind a URL of fsspec, with the methods of `LocalFolder`; what can't be read is a DataError."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)

    def __str__(self) -> str:
        return str(self._store)

    def require_usable(self) -> None:
        self._store.names("")

    def make(self, subfolder: str) -> None:
        """Nothing to do: it comes with its first file."""

    def clean(self, subfolder: str) -> None:
        """Nothing that can be done: whose an unfinished file is can't be known there."""

    def exists(self, name: str) -> bool:
        return self._store.exists(name)

    def names(self, subfolder: str) -> set[str]:
        return self._store.names(subfolder)

    def open(self, name: str) -> BufferedIOBase:
        if not self._store.exists(name):
            raise FileNotFoundError(f"{self}/{name}")
        return BytesIO(self._store.read(name))

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        with temporary_dir() as folder:
            atomic_write(folder / "file", write)
            self._store.put(folder / "file", name)

    def remove(self, name: str) -> None:
        self._store.remove(name)

    def put_json_if_absent(self, name: str, value: Any) -> bool:
        with temporary_dir() as folder:
            write_json(folder / "file", value)
            return self._store.put_if_absent(folder / "file", name)


Folder = LocalFolder | RemoteFolder


def folder_of(name: str) -> Folder:
    """The folder of this path or URL."""
    return RemoteFolder(name) if is_remote(name) else LocalFolder(Path(name))
