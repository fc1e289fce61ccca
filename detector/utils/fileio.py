"""Files that are either the old one or the complete new one, whatever happens in between."""

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from detector.errors import WriteError
from detector.utils.memory import free_memory

WRITE_FAILURES = ("I/O error", "inline_container", "write failed", "No space left")
"""Parts of the messages with which safetensors and torch.save report a full disk; neither raises OSError."""


UNFINISHED = ".unfinished."
"""How the names of temporary files begin; one stays behind only where the process was killed."""


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a temporary file in the same folder, then put it in the place of `path`.

    Raises WriteError naming the file where the disk is full or the folder can't be written; nothing is left behind.
    """
    with atomic_path(path) as temporary, writing(path):
        write(temporary)


@contextmanager
def atomic_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary file in the folder of `path`, put in its place at the end of the block; removed if that raises.

    For files written bit by bit, each bit within `writing`. Its name ends in `suffix`, for libraries that go by that.
    Raises WriteError as `atomic_write` does.
    """
    temporary = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # not path.name, which may be as long as a name can be; torch.save wants something before the last dot
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED, suffix=suffix)
            os.close(handle)
            temporary = Path(name)
        yield temporary
        with writing(path):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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


@contextmanager
def staging_dir(path: Path) -> Iterator[Path]:
    """A temporary folder in which to write `path`, by its name, and files that belong to it; at the block's end they take their
    places, `path` itself last. Raises WriteError as `atomic_write`; if anything fails, nothing is left behind."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder:
            try:
                yield Path(folder)
            except WriteError as error:  # names a file in the temporary folder
                raise WriteError(str(error).replace(folder, str(path.parent))) from error
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
                file.replace(path.parent / file.name)


def _cannot_write(path: Path, reason: str) -> WriteError:
    return WriteError(f"{path}: can't be written ({reason}); free some space or choose another folder with --out")


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in `folder`."""
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Raise WriteError if `folder` is none or can't be made: known before the work, not after it. Makes nothing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    if not existing.is_dir():
        raise WriteError(f"--out: {folder} can't be used ({existing} is a file); choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WriteError(f"--out: {folder} can't be used ({existing} may not be written to); choose another folder")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    write_text(path, json.dumps(value, indent=1))


def require_regular(path: Path) -> None:
    """Raise OSError unless `path` is a file with an end that fits into memory: no pipe, no device."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")
    if status.st_size > free_memory():
        raise OSError(errno.EFBIG, f"its {status.st_size / 2**30:.1f} GiB are more than the free memory")
