"""Decoded images in memory that all workers share, so that each file is decoded once a run and not each time it is used.

One piece of anonymous memory (Linux's memfd) holds all of it. It is not limited by /dev/shm, which containers keep small,
and each part is reserved before it is written, so that too little memory is an error code here and not a bus error.
Processes inherit it (fork) or get its descriptor (spawn, forkserver).
"""

import hashlib
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import reduction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

if sys.platform == "linux":
    import fcntl

ALIGNMENT = 64
"""Bytes: entries and pixels start at multiples of it."""


class FileState(NamedTuple):
    """Tells one state of a file from the next."""

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class ImageCache:
    """Decoded images, in at most `capacity` bytes with all bookkeeping, numbered 0..images - 1.

    An image is served only while its file is in the state that was decoded; files of the same content share one copy.
    What is full stays as it is: nothing is ever thrown out, so an entry never changes once it can be found.

    Layout, in 64-bit words: the first free byte; for each image where its entry starts (0: none); a hash table of the
    entries by content, open addressing; then entries (`FileState`, digest in two words, height, width, where the pixels
    start) and pixels. Readers take no lock: the word that leads to an entry is written last. Writers lock the file, a
    lock that the kernel takes back from a process that dies.
    """

    def __init__(self, images: int, capacity: int) -> None:
        """Raises OSError where the bookkeeping finds no memory."""
        descriptor = os.memfd_create("detector-images")
        os.ftruncate(descriptor, capacity)
        self._open(images, capacity, descriptor)
        os.posix_fallocate(descriptor, 0, bookkeeping(images))
        self._words[0] = bookkeeping(images)

    def read(
        self, index: int, path: Path, variant: bytes, decode: Callable[[], UInt8[np.ndarray, "h w 3"]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """What `decode` returns for the file at `path`, from memory if it is there: then read-only.

        variant: what decides on the pixels besides the file's content. Errors are those of `decode`.
        """
        try:
            state = FileState.of(path)
        except OSError:
            return decode()
        image = self._find(index, state)
        if image is not None:
            return image
        image = decode()
        if self._words[0] + needed(image.nbytes) <= len(self._bytes):
            try:
                digest = hashlib.blake2b(path.read_bytes() + variant, digest_size=16).digest()
                unchanged = FileState.of(path) == state
            except OSError:  # the file has just gone
                return image
            if unchanged:
                self._keep(index, state, digest, image)
        return image

    def _find(self, index: int, state: FileState) -> UInt8[np.ndarray, "h w 3"] | None:
        start = int(self._slots[index])
        if start == 0:
            return None
        *known, _, _, height, width, pixels = self._entry(start).tolist()
        return self._pixels(pixels, height, width) if tuple(known) == state else None

    def _keep(self, index: int, state: FileState, digest: bytes, image: UInt8[np.ndarray, "h w 3"]) -> None:
        words = np.frombuffer(digest, np.int64)
        height, width = image.shape[:2]
        with self._locked():
            if self._find(index, state) is not None:  # another process was faster
                return
            cell, twin = self._look_up(words)
            start = self._reserve(0 if twin else image.nbytes)
            if start is None:
                return
            pixels = int(self._entry(twin)[-1]) if twin else start + ALIGNMENT
            if not twin:
                self._pixels(pixels, height, width, writable=True)[:] = image
            self._entry(start)[:] = [*state, *words, height, width, pixels]
            if cell is not None and not twin:
                self._table[cell] = start
            self._slots[index] = start

    def _look_up(self, digest: np.ndarray) -> tuple[int | None, int]:
        """The hash table's cell for this content, None if all are taken, and where the entry in it starts, 0 if none."""
        first = int(digest[0]) % len(self._table)
        for step in range(len(self._table)):
            cell = (first + step) % len(self._table)
            start = int(self._table[cell])
            if start == 0 or (self._entry(start)[3:5] == digest).all():
                return cell, start
        return None, 0

    def _reserve(self, pixels: int) -> int | None:
        """Room for an entry and `pixels` bytes behind it; None if there is none."""
        start, length = int(self._words[0]), needed(pixels)
        if start + length > len(self._bytes):
            return None
        try:
            os.posix_fallocate(self._descriptor, start, length)
        except OSError:  # the machine has less memory left than the cache may have
            return None
        self._words[0] = start + length
        return start

    def _entry(self, start: int) -> np.ndarray:
        return self._words[start // 8 : start // 8 + 8]

    def _pixels(self, start: int, height: int, width: int, writable: bool = False) -> UInt8[np.ndarray, "h w 3"]:
        view = self._bytes[start : start + height * width * 3].reshape(height, width, 3)
        view.flags.writeable = writable
        return view

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _open(self, images: int, capacity: int, descriptor: int) -> None:
        self._descriptor = descriptor
        self._images = images
        weakref.finalize(self, os.close, descriptor)
        self._bytes = np.frombuffer(mmap.mmap(descriptor, capacity), np.uint8)
        self._words = self._bytes[: capacity // 8 * 8].view(np.int64)
        self._slots = self._words[1 : 1 + images]
        self._table = self._words[1 + images : 1 + images + 2 * images]

    def __getstate__(self) -> tuple[int, int, Any]:
        return self._images, len(self._bytes), reduction.DupFd(self._descriptor)

    def __setstate__(self, state: tuple[int, int, Any]) -> None:
        images, capacity, descriptor = state
        self._open(images, capacity, descriptor.detach())


def bookkeeping(images: int) -> int:
    """Bytes that a cache of that many images takes before the first comes in."""
    return _aligned(8 * (1 + images + 2 * images))


def needed(pixels: int) -> int:
    """Bytes that an image of `pixels` bytes takes in a cache."""
    return ALIGNMENT + _aligned(pixels)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
