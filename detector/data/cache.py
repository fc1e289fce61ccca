"""Decoded images in memory that all workers share, so that each file is decoded once a run and not each time it is used.

One piece of anonymous memory (Linux's memfd) holds all of it. It is not limited by /dev/shm, which containers keep small,
and each part is reserved before it is written, so that too little memory is an error code here and not a bus error.
Processes inherit it (fork) or get its descriptor (spawn, forkserver).
"""

import mmap
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from detector.images.read import RemoteFile

RECORD_BYTES = 16
FILLED = 1


class ImageCache:
    """Decoded images, each with a place of its own: the first ones whose places end within `capacity` bytes.

    Layout: a record for each image, which is two 64-bit words, `file_state` (0: none yet) and `FILLED`; then the pixels.
    An image is served only while its file is in the state that was decoded.

    There is no lock. Whoever has decoded an image puts the state into its record unless another state is there, then
    looks at the file again, and writes pixels, and `FILLED` last, only if the file is still in that state. So whoever
    decodes a later state finds the record taken: all that write one image write the same bytes, and an image that was
    returned never changes. The image of a file that has changed is decoded each time from then on.
    """

    def __init__(self, sizes: Int64[np.ndarray, "images 2"], capacity: int) -> None:
        """sizes: (width, height) in pixels. Raises OSError where the records find no memory."""
        places = starts(sizes)
        self.room = max(int(np.searchsorted(places, capacity, side="right")) - 1, 0)
        """Images that have a place."""
        descriptor = os.memfd_create("detector-images")
        os.ftruncate(descriptor, int(places[self.room]))
        self._open(sizes, descriptor)
        os.posix_fallocate(descriptor, 0, int(places[0]))

    def read(
        self,
        index: int,
        path: Path | RemoteFile,
        decode: Callable[[], UInt8[np.ndarray, "h w 3"]],
        beside: Callable[[], Iterable[tuple[int, UInt8[np.ndarray, "_ _ 3"]]]] = tuple,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """What `decode` returns for the file at `path`, from memory if it is there: then read-only.

        Errors are those of `decode`. beside: gives, after that, the other images that come from the same file, with their indices;
        so a file of which several images are parts is decoded once.
        """
        state = file_state(path) if index < self.room else None
        if state is None:
            return decode()
        record, pixels = self._records[index], self._pixels(index)
        if record.tolist() == [state, FILLED]:
            pixels.flags.writeable = False
            return pixels
        image = decode()
        self._keep(index, path, state, image)
        for other, part in beside():
            self._keep(other, path, state, part)
        return image

    def _keep(self, index: int, path: Path | RemoteFile, state: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Keep an image that was decoded after the file was seen in `state`, if there is a place, and no other state in it."""
        if index >= self.room or self._records[index].tolist() not in ([0, 0], [state, 0]):
            return
        record, pixels = self._records[index], self._pixels(index)
        record[0] = state
        if file_state(path) == state:
            with suppress(OSError):  # the machine has less memory left than the cache may have
                os.posix_fallocate(self._descriptor, int(self._starts[index]), image.nbytes)
                pixels[:] = image
                record[1] = FILLED

    def _pixels(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        start, (width, height) = int(self._starts[index]), self._sizes[index].tolist()
        return self._bytes[start : start + height * width * 3].reshape(height, width, 3)

    def _open(self, sizes: Int64[np.ndarray, "images 2"], descriptor: int) -> None:
        self._sizes, self._starts, self._descriptor = sizes, starts(sizes), descriptor
        weakref.finalize(self, os.close, descriptor)
        self._bytes = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)
        self._records = self._bytes[: RECORD_BYTES * len(sizes)].view(np.int64).reshape(-1, 2)

    def __getstate__(self) -> tuple[int, np.ndarray, Any]:
        return self.room, self._sizes, reduction.DupFd(self._descriptor)

    def __setstate__(self, state: tuple[int, np.ndarray, Any]) -> None:
        self.room, sizes, descriptor = state
        self._open(sizes, descriptor.detach())


def starts(sizes: Int64[np.ndarray, "images 2"]) -> Int64[np.ndarray, " images+1"]:
    """The bytes at which the images' pixels start, behind the records, and at which the last ends.

    Each place is whole pages, so that reserving one never touches another.
    """
    lengths = np.concatenate([[RECORD_BYTES * len(sizes)], 3 * sizes.prod(axis=1)])
    return np.cumsum(-(-lengths // mmap.PAGESIZE) * mmap.PAGESIZE)


def file_state(path: Path | RemoteFile) -> int | None:
    """A 64-bit word, never 0, that tells one state of a file from the next; None where there is no file.

    One word, because it is then read and written whole, and the same in all processes: hashes of integers have no seed.
    Files that are elsewhere have one state: asking for it would take as long as reading them.
    """
    if not isinstance(path, Path):
        return 1
    try:
        status = path.stat()
    except OSError:
        return None
    return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns)) or 1
