"""Headers of MP4 files of any content: a matrix or none, never a traceback, never without end."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from detector.inference.display_matrix import MAX_BOXES, read_display_matrix
from fuzz.mutate import fuzz, mutated

TURN = 1 << 16  # 1 in the fixed-point numbers of a matrix
UNMOVED, QUARTER, MIRROR = [[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, 1]]


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


def large_box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return box(kind, struct.pack(">Q", 16 + len(content) if size is None else size) + content, 1)


def header(kind: bytes, before: int, matrix: list[list[int]]) -> bytes:
    """Of a movie or a track, with so many bytes before its matrix."""
    (a, b), (c, d) = matrix
    numbers = struct.pack(">9i", a * TURN, b * TURN, 0, c * TURN, d * TURN, 0, 7 * TURN, 9 * TURN, 1 << 30)
    return box(kind, (b"\1" if before > 40 else b"\0") + bytes(before - 1) + numbers + bytes(24))


def handler(kind: bytes) -> bytes:
    return box(b"mdia", box(b"mdhd", bytes(24)) + box(b"hdlr", bytes(8) + kind + bytes(12)))


MOVIE, LONG_MOVIE = header(b"mvhd", 36, MIRROR), header(b"mvhd", 48, MIRROR)
SOUND = box(b"trak", header(b"tkhd", 40, UNMOVED) + handler(b"soun"))
TRACK, LONG_TRACK = header(b"tkhd", 40, QUARTER), header(b"tkhd", 52, QUARTER)
VIDEO = box(b"trak", TRACK + handler(b"vide"))
FILES = {
    "usual": box(b"ftyp", b"isom") + box(b"moov", MOVIE + SOUND + VIDEO),
    "at the end": large_box(b"mdat", bytes(99)) + box(b"moov", MOVIE + VIDEO),
    "two videos": box(b"moov", MOVIE + VIDEO + box(b"trak", header(b"tkhd", 40, UNMOVED) + handler(b"vide"))),
    "long headers": large_box(b"moov", LONG_MOVIE + box(b"trak", LONG_TRACK + handler(b"vide"))),
    "to the end of the file": box(b"wide", b"") + box(b"moov", MOVIE + VIDEO, 0),
    "many boxes": box(b"free", b"") * 99 + box(b"moov", MOVIE + VIDEO),
}
OTHERS = {
    "empty": b"",
    "no video": box(b"moov", MOVIE + SOUND),
    "no movie": box(b"moov", VIDEO),
    "no track header": box(b"moov", MOVIE + box(b"trak", handler(b"vide"))),
    "cut off": box(b"moov", MOVIE + TRACK[:60]),
    "too many boxes": box(b"free", b"") * MAX_BOXES + box(b"moov", MOVIE + VIDEO),
    "boxes within boxes": box(b"trak", b"", 1 << 31) * 99,
    "a box larger than the file": large_box(b"mdat", b"", (1 << 64) - 1) + box(b"moov", MOVIE + VIDEO),
    "a box smaller than its header": box(b"mdat", b"", 7) + box(b"moov", MOVIE + VIDEO),
    "another format": b"\x1a\x45\xdf\xa3" + bytes(range(256)),
}


@pytest.mark.parametrize("name", FILES)
def test_the_matrix_of_a_track_and_its_movie(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").write_bytes(FILES[name])
    matrix = read_display_matrix(tmp_path / "a.mp4")
    assert matrix is not None
    assert (matrix / TURN**2).tolist() == (np.array(QUARTER) @ MIRROR).tolist()


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_have_no_matrix(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").write_bytes(OTHERS[name])
    assert read_display_matrix(tmp_path / "a.mp4") is None


@pytest.mark.slow
def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"

    def check(rng: random.Random) -> None:
        file.write_bytes(mutated(rng, rng.choice([*FILES.values(), *OTHERS.values()])))
        matrix = read_display_matrix(file)
        assert matrix is None or matrix.shape == (2, 2)

    fuzz(check)
