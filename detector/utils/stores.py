"""Folders and files behind URLs of fsspec, which PyTorch brings: object stores (s3://, gs://, …) and other file systems."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from fsspec.core import url_to_fs

from detector.errors import DataError, DetectorError, WriteError, without_secrets
from detector.utils.fileio import UNFINISHED

SCHEME = re.compile(r"(?!https?:|rtsps?:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_remote(name: str) -> bool:
    """Whether a name is a URL of fsspec, such as s3://bucket/a.jpg or tar://a.jpg::shard.tar."""
    return SCHEME.match(name) is not None


class Store:
    """A folder behind a URL, to read from and to write to. Its files are there whole or not at all.

    Raises DataError for what can't be read and WriteError for what can't be written, one line with the file's URL, without
    secrets, and the reason.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        with store_errors(url):
            self._system, path = url_to_fs(url)
        self._path = path.rstrip("/")

    def __str__(self) -> str:
        return without_secrets(self._url)

    def exists(self, name: str) -> bool:
        with self._reading(name):
            self._system.invalidate_cache()  # others write there, too
            return bool(self._system.exists(self._at(name)))

    def names(self, folder: str) -> set[str]:
        """The names in a subfolder, which need not exist, without those of unfinished files."""
        with self._reading(folder):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return set()
        return {name for path in found if not (name := PurePosixPath(path).name).startswith(UNFINISHED)}

    def read(self, name: str) -> bytes:
        with self._reading(name):
            content: bytes = self._system.cat_file(self._at(name))
            return content

    def get(self, name: str, local: Path) -> None:
        """Copy a file from there."""
        with self._reading(name):
            self._system.get_file(self._at(name), str(local))

    def put(self, local: Path, name: str) -> None:
        """Copy a file there, first under a temporary name: the file from before stays until the new one is whole."""
        target = PurePosixPath(self._at(name))
        temporary = str(target.with_name(f"{UNFINISHED}{uuid4().hex}"))
        with self._writing(name):
            try:
                self._put(local, temporary)
                self._system.mv(temporary, str(target))
            except BaseException:
                with suppress(Exception):
                    self._system.rm_file(temporary)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, which may be gone already."""
        with self._writing(name), suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    def put_if_absent(self, local: Path, name: str) -> bool:
        """Copy a file there unless there is one, also one that somebody has just put there if the store can tell; whether it was
        copied."""
        if self.exists(name):
            return False
        path = self._at(name)
        with self._writing(name):
            try:
                with suppress(FileNotFoundError):  # an object store has no folders to be made
                    self._system.pipe_file(path, local.read_bytes(), mode="create")
                    return True
                self._system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
                self._system.pipe_file(path, local.read_bytes(), mode="create")
            except FileExistsError:
                return False
        return True

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name

    def _put(self, local: Path, path: str) -> None:
        try:
            self._system.put_file(str(local), path)
        except FileNotFoundError:  # an object store has no folders to be made
            self._system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            self._system.put_file(str(local), path)

    def _reading(self, name: str) -> AbstractContextManager[None]:
        return store_errors(f"{self._url}/{name}")

    def _writing(self, name: str) -> AbstractContextManager[None]:
        return store_errors(f"{self._url}/{name}", WriteError, "written")


@contextmanager
def store_errors(name: str, kind: type[DetectorError] = DataError, what: str = "read") -> Iterator[None]:
    """What fails in the block is raised as `kind`, one line with the name, without secrets, and the reason."""
    try:
        yield
    except DetectorError as error:
        if isinstance(error, kind) or not (isinstance(error, DataError) and issubclass(kind, DataError)):
            raise
        raise kind(str(error)) from error
    except ImportError as error:  # fsspec names the package
        raise kind(f"{name}: can't be {what}: {error}") from error
    except FileNotFoundError as error:
        raise kind(f"{name}: does not exist") from error
    except Exception as error:  # each store has errors of its own: no rights, no network, a broken tar file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{name}: can't be {what}: {reason}") from error
