"""How a player turns and mirrors the frames of a video, by its display matrix."""

import os
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

MAX_BOXES = 10_000
"""Boxes of a file that are looked at; before its video's own there are a few dozens."""
BOX_HEADER = struct.Struct(">I4sQ")  # size, type, and the size where that takes 64 bits
AT_IN_MOVIE, AT_IN_TRACK = 36, 40  # bytes before the matrix in the headers `mvhd` and `tkhd`
MATRIX_HEADER = 96  # bytes of the longer one, with the matrix


def upright(
    image: UInt8[np.ndarray, "height width 3"], matrix: Float64[np.ndarray, "2 2"]
) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """A stored frame as a player shows it, turned by quarters and mirrored; `matrix`: of [x, y] it shows [x, y] @ matrix."""
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        image = image.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def read_display_matrix(path: Path) -> Float64[np.ndarray, "2 2"] | None:
    """That of the first video in a file of the MP4 family (ISO/IEC 14496-12: MP4, MOV, M4V, 3GP), the track's and the movie's
    multiplied. None if there is none, whatever the file holds."""
    movie = track = None
    with path.open("rb") as file:
        end, place = file.seek(0, os.SEEK_END), 0
        for _ in range(MAX_BOXES):
            file.seek(place)
            size, kind, long_size = BOX_HEADER.unpack(file.read(BOX_HEADER.size).ljust(BOX_HEADER.size, b"\0"))
            start = place + (16 if size == 1 else 8)
            place += long_size if size == 1 else size
            file.seek(start)
            if kind in (b"moov", b"trak", b"mdia"):
                place = start  # the next box is their first
            elif kind == b"mvhd":
                movie = _matrix_in(file.read(MATRIX_HEADER), AT_IN_MOVIE)
            elif kind == b"tkhd":
                track = _matrix_in(file.read(MATRIX_HEADER), AT_IN_TRACK)
            elif kind == b"hdlr" and file.read(12)[8:] == b"vide":
                return None if movie is None or track is None else track @ movie
            if place < start or place >= end:  # also a size of 0: it goes on to the end of the file
                break
    return None


def _matrix_in(header: bytes, at: int) -> Float64[np.ndarray, "2 2"] | None:
    """What its nine numbers tell beside a shift: in version 1 of a header, three numbers before it take 8 bytes for 4."""
    at += 12 if header[:1] == b"\1" else 0
    if len(header) < at + 36:
        return None
    return np.frombuffer(header, ">i4", 9, at).reshape(3, 3)[:2, :2].astype(np.float64)
