"""Configuration files of any content: a configuration or one line, never a traceback, never without end."""

import random
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.cli import COMMANDS, parse
from detector.config import TrainConfig
from detector.errors import DetectorError
from detector.reporting.run_record import read_config
from fuzz.mutate import fuzz, mutated

pytestmark = pytest.mark.slow

RECIPES = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))]
VALUES = (
    *(
        "1e999",
        "-1",
        "0",
        ".nan",
        "9" * 5000,
        "1e308",
        "true",
        "null",
        "''",
        "[]",
        "{}",
        "[[[]]]",
        "{a: {b: 1}}",
        "2020-13-32",
    ),
    *(
        "~",
        "~/x",
        "~nobody/x",
        "*a",
        "&a [*a]",
        "&a 1",
        "!!int x",
        "!!python/name:os.system",
        '"\\ud800"',
        '"\\0"',
        "'\\x1b[2J'",
    ),
    *(
        "[1, 2, 3]",
        "[384, 640]",
        "mine.yaml",
        "/dev/zero",
        "0x_",
        "1:60",
        "=",
        "<<: 1",
        "- ToGray: {p: x}",
        "{n: 0.5}",
        "📷",
    ),
)


def flat(content: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all keys, sections too."""
    names = []
    for name, value in content.items():
        names += [f"{prefix}{name}", *(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [])]
    return names


NAMES = [*flat(asdict(TrainConfig())), "config", "print_config", "help", "<<", "", "1", "null", "x.y", "train.x"]


def lines(rng: random.Random) -> bytes:
    """Some options with values that they may not have."""
    return "".join(f"{rng.choice(NAMES)}: {rng.choice(VALUES)}\n" for _ in range(rng.randint(1, 3))).encode()


def test_configuration_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("mine.yaml")

    def check(rng: random.Random) -> None:
        file.write_bytes(lines(rng) if rng.random() < 0.7 else mutated(rng, rng.choice(RECIPES)))
        with suppress(DetectorError):
            parse("train", COMMANDS["train"], ["--config", str(file)])

    fuzz(check)


def test_configurations_of_runs(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    written = yaml.safe_dump(asdict(TrainConfig()), sort_keys=False).encode()

    def check(rng: random.Random) -> None:
        file.write_bytes(mutated(rng, written))
        with suppress(DetectorError):
            read_config(file)

    fuzz(check)
