"""Copies of what comes from elsewhere in a folder of this machine, which processes share and which doesn't grow without end."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time_ns

import platformdirs

from detector.errors import DISTRIBUTION, WriteError
from detector.utils.fileio import LOCK, writing
from detector.utils.locks import lock, unlock

HOME = "DETECTOR_HOME"
"""Environment variable that names the cache folder."""
FULL = 0.9
"""Part of the limit to which the least recently used files are removed at once, as finding them takes a look at all files."""
LONGEST_NUMBER = 20  # digits
WAIT = 0.002  # seconds until the lock is tried again


def cache_home() -> Path:
    """The cache folder: the one that `HOME` names, else the system's."""
    home = os.environ.get(HOME)
    return Path(home).expanduser() if home else platformdirs.user_cache_path(DISTRIBUTION, appauthor=False)


@dataclass(frozen=True)
class FileCache:
    """Files by key in `folder`, of at most `limit` bytes in all, also while they are written; the least recently used go first.

    Processes and threads may use it at once. A file appears when it is complete. It is not forced onto the disk: whoever finds
    that a file is no longer what it was, as after a loss of power, calls `discard`.
    """

    folder: Path
    limit: int

    def read(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """What `fetch` returns, from its copy if there is one. Errors are those of `fetch`: where no copy can be written, one line
        says so, and the run goes on without."""
        path = self._path(key)
        with suppress(OSError):
            content = path.read_bytes()
            now = time_ns()
            os.utime(path, ns=(now, now))
            return content
        content = fetch()
        if len(content) <= self.limit:
            try:
                with writing(path):
                    self._keep(path, content)
            except WriteError as error:
                _say_once(f"no local copies of what comes from elsewhere: {error}")
        return content

    def discard(self, key: str) -> None:
        """Remove the copy, if there is one."""
        with suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / name

    def _keep(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._total() as descriptor:
            used = _read_number(descriptor)
            if used is None or used + len(content) > self.limit:
                used = self._make_room(max(int(FULL * self.limit) - len(content), 0))
            _write_number(
                descriptor, used + len(content)
            )  # first: a process that is killed here leaves too much, not too little
            path.parent.mkdir(exist_ok=True)
            temporary = path.parent / f"{os.getpid()}.new"
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def _make_room(self, most: int) -> int:
        """Remove the least recently used files until `most` bytes or less are left, and return how many are."""
        files = []
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # discarded
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= most:
                break
            with suppress(PermissionError):  # on Windows: another process reads it
                path.unlink(missing_ok=True)
                used -= size
        return used

    @contextmanager
    def _total(self) -> Iterator[int]:
        """The open file that holds the bytes in all, locked for the time of the block."""
        while True:
            with suppress(BlockingIOError):
                descriptor, _ = lock(self.folder / LOCK)
                break
            sleep(WAIT)
        try:
            yield descriptor
        finally:
            unlock(descriptor)


def _read_number(descriptor: int) -> int | None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, LONGEST_NUMBER)
    return int(text) if text.isdigit() else None


def _write_number(descriptor: int, number: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"%0*d" % (LONGEST_NUMBER, number))


_said: set[str] = set()


def _say_once(line: str) -> None:
    if not _said:
        _said.add(line)
        print(line, file=sys.stderr)
