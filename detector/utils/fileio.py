"""Files that are either the old one or the complete new one, whatever happens in between."""

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from detector.errors import ConfigError, WriteError
from detector.utils.locks import lock, unlock
from detector.utils.memory import free_memory

WRITE_FAILURES = ("I/O error", "inline_container", "write failed", "No space left")
"""Parts of the messages with which safetensors and torch.save report a full disk; neither raises OSError."""


UNFINISHED = ".unfinished."
"""How the names of temporary folders begin; one stays behind only where the process was killed, until the next one comes."""
LOCK = ".lock"
"""File in a folder that is locked as long as the folder's process lives."""


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a temporary file, then put it in the place of `path`.

    Raises WriteError naming the file where the disk is full or the folder can't be written; nothing is left behind.
    """
    with atomic_path(path) as temporary, writing(path):
        write(temporary)


@contextmanager
def atomic_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary file, put in the place of `path` at the end of the block; removed if that raises.

    For files written bit by bit, each bit within `writing`. Its name ends in `suffix`, for libraries that go by that.
    Raises WriteError as `atomic_write` does.
    """
    with staging_dir(path) as folder:
        temporary = folder / f"file{suffix}"  # not path.name, which libraries may take for a pattern or a protocol
        with writing(path):
            temporary.touch()
            mode = temporary.stat().st_mode
        yield temporary
        with writing(path):
            temporary.chmod(mode)  # safetensors makes files that only their owner may read
            temporary.rename(folder / path.name)


@contextmanager
def staging_dir(path: Path) -> Iterator[Path]:
    """A temporary folder in which to write `path`, by its name, and files that belong to it; at the block's end they take their
    places, `path` itself last. Raises WriteError as `atomic_write`; if anything fails, nothing is left behind."""
    with ExitStack() as stack:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(temporary_dir(path.parent))
        try:
            yield folder
        except WriteError as error:  # names a file in the temporary folder
            raise WriteError(str(error).replace(str(folder), str(path.parent))) from error
        with writing(path):
            written = [file for file in folder.iterdir() if file.name != LOCK]
            for file in sorted(written, key=lambda file: file.name == path.name):
                if not file.is_dir():
                    with file.open("rb+") as content:
                        os.fsync(content.fileno())
                file.replace(path.parent / file.name)


@contextmanager
def temporary_dir(parent: Path | None = None) -> Iterator[Path]:
    """A folder in `parent`, or where the system has such, that goes with the block, or, if the process is killed, when another
    one comes to `parent`."""
    parent = parent or Path(tempfile.gettempdir())
    _remove_unfinished_once(parent)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent.absolute(), prefix=UNFINISHED))
        with suppress(BlockingIOError, FileNotFoundError):  # somebody just removes it, as nobody's
            descriptor, _ = lock(folder / LOCK)
            break
    try:
        yield folder
    finally:
        unlock(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed have left in `folder`; of a process that lives, nothing."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # it is in use, gone, or another user's
            if not path.is_dir():  # of version 0.2
                path.unlink()
                continue
            descriptor, certain = lock(path / LOCK)
            if certain:
                shutil.rmtree(path, ignore_errors=True)
            unlock(descriptor)


_remove_unfinished_once = cache(remove_unfinished)
"""For folders into which a process writes many files."""


@contextmanager
def folder_lock(folder: Path, job: str) -> Iterator[None]:
    """Keep others out of `folder`, made if need be, within the block. Raises WriteError naming the process that is there."""
    path, new = folder / LOCK, not folder.exists()
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, _ = lock(path)
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8", errors="replace").strip() or "a process that has just begun"
            raise WriteError(
                f"{folder}: another {job} writes there ({owner}); wait for its end, stop it, or choose another --out"
            ) from None
    try:
        with writing(path):
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            path.unlink()
        unlock(descriptor)
        if new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails in the block for want of space or permission is raised as WriteError naming `path`."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from error
    except (RuntimeError, SafetensorError) as error:
        if not any(mark in str(error) for mark in WRITE_FAILURES):
            raise
        raise _cannot_write(path, f"the disk is full or the file too large: {str(error).splitlines()[0]}") from error


def _cannot_write(path: Path, reason: str) -> WriteError:
    return WriteError(f"{path}: can't be written ({reason}); free some space or choose another folder with --out")


def require_writable(folder: Path) -> None:
    """Raise WriteError if `folder` is none or can't be made: known before the work, not after it. Makes nothing, but removes
    what killed processes have left there."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    if not existing.is_dir():
        raise WriteError(f"--out: {folder} can't be used ({existing} is a file); choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WriteError(f"--out: {folder} can't be used ({existing} may not be written to); choose another folder")
    remove_unfinished(folder)


def require_apart(inputs: Iterable[str | Path | None], outputs: Iterable[Path]) -> None:
    """Raise ConfigError if one of the files to write is one of those to read, under the same name or another one.
    None among the inputs is an option that was not given."""

    def identity(path: str | Path) -> tuple[int, int] | None:
        try:
            status = Path(path).stat()
        except (OSError, ValueError):  # there is none, or it is a URL
            return None
        return status.st_dev, status.st_ino

    read = {identity(path): path for path in inputs if path is not None}
    for output in outputs:
        if (known := identity(output)) is not None and known in read:
            raise ConfigError(
                f"--out: {output} would take the place of {read[known]}, which is read; choose another --out"
            )


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    write_text(path, json.dumps(value, indent=1))


def put_json_if_absent(path: Path, value: Any) -> bool:
    """Write `value` as JSON unless there is a file already, also one that another process has just made; whether it was written.

    Raises WriteError as `atomic_write`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_dir(path.parent) as folder:
            temporary = folder / path.name
            temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links, where two processes may both find nothing
                if path.exists():
                    return False
                temporary.replace(path)
    return True


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def require_regular(path: Path) -> None:
    """Raise OSError unless `path` is a file with an end that fits into memory: no pipe, no device."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")
    if status.st_size > free_memory():
        raise OSError(errno.EFBIG, f"its {status.st_size / 2**30:.1f} GiB are more than the free memory")
