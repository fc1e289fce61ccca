"""Weights files with any header: each is loaded or refused in one line, none leaves a traceback or runs on."""

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from detector.errors import WeightsError
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.weights.files import WeightsInfo, load_weights
from fuzz.mutate import fuzz
from fuzz.values import VALUES

INFO = WeightsInfo("yolo11n", Categories((1, 5), ("cat", "dog")), 320, {"epoch": 1}, {"AP": 0.5}, "CC0-1.0", 72)
DTYPES = [
    "BOOL",
    "F4",
    "F6_E2M3",
    "F8_E5M2",
    "F8_E4M3",
    "F8_E8M0",
    "F16",
    "BF16",
    "F32",
    "F64",
    "C64",
    "I8",
    "U8",
    "I16",
    "U16",
    "I32",
    "U32",
    "I64",
    "U64",
    "X",
    "7",
]
Header = dict[str, Any]


def metadata(rng: random.Random, header: Header) -> None:
    """Another value for a key of the metadata."""
    header["__metadata__"][rng.choice(list(header["__metadata__"]))] = rng.choice(VALUES)


def inside(rng: random.Random, header: Header) -> None:
    """Another value inside one of the lists or dicts of the metadata."""
    key = rng.choice(("class_names", "category_ids", "training", "metrics"))
    content = json.loads(header["__metadata__"][key])
    place = rng.choice(range(len(content)) if isinstance(content, list) else list(content))
    text = json.dumps(content, default=str).replace(json.dumps(content[place]), rng.choice(VALUES), 1)
    header["__metadata__"][key] = text


def lost(rng: random.Random, header: Header) -> None:
    """A key less, of the metadata or of a tensor."""
    entry = rng.choice(list(header.values()))
    entry.pop(rng.choice(list(entry)), None)


def tensor(rng: random.Random, header: Header) -> None:
    """Another type, shape or place of a tensor."""
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    field = rng.choice(list(entry))
    number = rng.choice((0, 1, -1, 2**31, 2**63, 2**64, 1.5, None))
    entry[field] = rng.choice((rng.choice(DTYPES), [number], [number, number], entry["shape"][::-1], [], number))


def renamed(rng: random.Random, header: Header) -> None:
    """A tensor under another name."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    header[rng.choice((name[1:], "", "\x1b[31m", "ä\n", "x" * 10**5, "__metadata__"))] = header.pop(name)


def shuffled_bytes(rng: random.Random, text: bytes) -> bytes:
    """A few bytes of the header changed, or a part of it lost or doubled."""
    content = bytearray(text)
    for _ in range(rng.randrange(1, 9)):
        start, end = sorted(rng.randrange(len(content)) for _ in range(2))
        kind = rng.randrange(3)
        if kind == 0:
            content[start] = rng.randrange(256)
        elif kind == 1:
            del content[start : min(end, start + 50)]
        else:
            content[start:start] = content[start : min(end, start + 50)]
    return bytes(content)


CHANGES: list[Callable[[random.Random, Header], None]] = [metadata, metadata, metadata, inside, lost, tensor, renamed]


@pytest.mark.slow
def test_any_header_is_read_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.safetensors"
    whole = save(create_model("yolo11n", 2, 72).state_dict(), metadata=INFO.to_metadata())
    length = int.from_bytes(whole[:8], "little")
    original, tensors = whole[8 : 8 + length], whole[8 + length :]
    rounds = refused = 0

    def check(rng: random.Random) -> None:
        nonlocal rounds, refused
        rounds += 1
        header = json.loads(original)
        for _ in range(rng.choice((1, 1, 2, 4))):
            with suppress(AttributeError, LookupError, TypeError, ValueError, RecursionError):  # changed beyond change
                rng.choice(CHANGES)(rng, header)
        text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            text = shuffled_bytes(rng, text)
        stated = len(text) if rng.random() < 0.95 else rng.choice((0, 1, len(text) - 1, 2**31, 2**63, 2**64 - 1))
        path.write_bytes(struct.pack("<Q", stated) + text + tensors)
        try:
            load_weights(path)
        except WeightsError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017

    fuzz(check)
    assert refused > rounds / 2
    with capsys.disabled():
        print(f"{rounds} headers, {refused} refused", end=" ")
