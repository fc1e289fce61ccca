"""Reader of flatbuffers: what .pte and .tflite files are made of; https://flatbuffers.dev/internals.

It reads single fields by their number in the schema, and takes no offset that leads out of the file.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass


class FlatbufferError(ValueError):
    """The bytes are no flatbuffer of the expected kind, or a damaged one."""


@dataclass(frozen=True)
class Table:
    """A table in `content` that begins at `position`; its fields are numbered as in the schema, from 0."""

    content: bytes
    position: int

    @classmethod
    def root(cls, content: bytes, identifier: bytes) -> "Table":
        """The root table of a file of this identifier, four characters. Raises FlatbufferError for any other file."""
        if content[4:8] != identifier:
            raise FlatbufferError("it begins with another identifier")
        return cls(content, _number(content, "I", 0))

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A number of the kind that `struct` calls so."""
        place = self.place_of(field)
        return default if place is None else _number(self.content, kind, place)

    def text(self, field: int) -> str:
        """A string, empty if there is none."""
        place = self.place_of(field)
        if place is None:
            return ""
        start, length = self._vector(place, 1)
        return self.content[start : start + length].decode(errors="replace")

    def tables(self, field: int) -> Iterator["Table"]:
        """The tables of a vector."""
        place = self.place_of(field)
        if place is None:
            return
        start, length = self._vector(place, 4)
        for at in range(start, start + 4 * length, 4):
            yield Table(self.content, at + _number(self.content, "I", at))

    def place_of(self, field: int) -> int | None:
        """Where a field is; None for one that is missing."""
        offsets = self.position - _number(self.content, "i", self.position)
        at = 4 + 2 * field
        if at + 2 > _number(self.content, "H", offsets):
            return None
        offset = _number(self.content, "H", offsets + at)
        return self.position + offset if offset else None

    def _vector(self, place: int, size: int) -> tuple[int, int]:
        """Where a vector's elements of `size` bytes start, and their number."""
        start = place + _number(self.content, "I", place)
        length = _number(self.content, "I", start)
        if start + 4 + length * size > len(self.content):
            raise FlatbufferError("a vector is longer than the file")
        return start + 4, length


def _number(content: bytes, kind: str, place: int) -> int:
    if not 0 <= place <= len(content) - struct.calcsize(kind):
        raise FlatbufferError("an offset leads out of the file")
    number: int = struct.unpack_from(f"<{kind}", content, place)[0]
    return number
