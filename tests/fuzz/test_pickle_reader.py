"""Checkpoints of any content: values or one line, never a traceback, never without end."""

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from test_pickle_reader import ATTACKS

from detector.errors import WeightsError
from detector.weights.published.read import read_published
from detector.weights.published.unpickle import read_pickle
from fuzz.mutate import fuzz, mutated

pytestmark = pytest.mark.slow

VALUE = {
    "model": OrderedDict(a=torch.ones(2, 3), b=torch.zeros(0)),
    "names": {0: "cat", 1: "dog"},
    "x": [1.5, None, {(1, 2)}, b"x"],
}


def saved() -> bytes:
    file = io.BytesIO()
    torch.save(VALUE, file)
    return file.getvalue()


def pickle_of(checkpoint: bytes) -> tuple[str, bytes]:
    """The name and the content of its pickle."""
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return name, archive.read(name)


PICKLES = [
    pickle_of(saved())[1],
    *(pickle.dumps({"a": [1, "x", b"y", 2.0, (3,), {4}, frozenset((5,))]}, protocol) for protocol in range(6)),
    *(b"\x80\x02" + attack + b"." for attack in ATTACKS.values()),
]


def test_pickles() -> None:
    def check(rng: random.Random) -> None:
        data = mutated(rng, rng.choice(PICKLES))
        if rng.random() < 0.2:  # two programs in one
            data = data[: rng.randint(0, len(data))] + rng.choice(PICKLES)
        with suppress(WeightsError):
            read_pickle(data, lambda _: torch.zeros(16))

    fuzz(check, rounds=20_000)


def test_checkpoints(tmp_path: Path) -> None:
    file, good = tmp_path / "best.pt", saved()
    name, content = pickle_of(good)

    def check(rng: random.Random) -> None:
        if rng.random() < 0.5:
            file.write_bytes(mutated(rng, good))
        else:
            with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(file, "w") as new:
                for each in old.namelist():
                    new.writestr(each, mutated(rng, content) if each == name else old.read(each))
        with suppress(WeightsError):
            read_published(file)

    fuzz(check)
