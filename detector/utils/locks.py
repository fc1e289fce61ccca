"""Locks on files, which the system releases when the process that holds one ends, however it ends."""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

FAR = 1 << 30
"""The byte that is locked on Windows, where nobody else can read what is locked."""
_held: set[int] = set()


def lock(path: Path) -> tuple[int, bool]:
    """Lock a file, made if need be: its open descriptor, for `unlock`, and whether its file system has locks at all.

    Raises BlockingIOError if somebody else has the lock, other OSErrors where the file can't be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                os.lseek(descriptor, FAR, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            raise BlockingIOError(f"{path} is locked") from error
        except OSError:  # such as some network file systems
            return descriptor, False
        if os.fstat(descriptor).st_nlink > 0:
            _held.add(descriptor)
            return descriptor, True
        os.close(descriptor)  # whoever had the lock has removed the file


def unlock(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    """Leave the locks to the parent: a worker that outlives it would keep them."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
