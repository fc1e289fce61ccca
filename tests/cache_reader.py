"""Reads through an image cache, in a process of its own too: imports little, since spawned processes import it anew."""

from pathlib import Path

import numpy as np

from detector.data.cache import ImageCache

SHAPE = (40, 30, 3)


def content(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


def read(cache: ImageCache, index: int, path: Path, decoded: list[int] | None = None) -> np.ndarray:
    """The image of a file that holds a number; `decoded` gets the index where it was not in memory."""

    def decode() -> np.ndarray:
        if decoded is not None:
            decoded.append(index)
        return content(int(path.read_text()))

    return cache.read(index, path, decode)


def read_all(cache: ImageCache, paths: list[Path], seed: int) -> None:
    """Files that hold their own index; what is wrong becomes the process's exit code."""
    for _ in range(3):
        for i in np.random.default_rng(seed).permutation(len(paths)).tolist():
            assert (read(cache, i, paths[i]) == content(i)).all()
