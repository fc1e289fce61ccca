"""The records in a .wandb file: LevelDB's log format after a header of 7 bytes, each record a protocol buffer."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(path: Path) -> Iterator[bytes]:
    """Parts of a record have a checksum (4 bytes), length (2) and kind (1) before them, and never cross a block's end."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, message = HEADER, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:  # what is left of a block is filled with zeros
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (FULL, LAST):
            yield message
            message = b""


def records(path: Path, kind: str) -> list[Any]:
    """Those of one kind, such as run, history, artifact, exit."""
    from wandb.proto.wandb_internal_pb2 import Record

    parsed = [Record.FromString(message) for message in messages(path)]
    return [getattr(each, kind) for each in parsed if each.WhichOneof("record_type") == kind]
