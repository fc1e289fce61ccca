"""Configuration: every shipped file parses, defaults are the documented ones, help and print_config work."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detector.cli import COMMANDS, parse
from detector.config import TrainConfig, TrainLoopConfig
from detector.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_parse(path: Path) -> None:
    config = parse("train", COMMANDS["train"], ["--config", str(path)])
    assert isinstance(config, TrainConfig)
    assert config.train.epochs == yaml.safe_load(path.read_text())["train"]["epochs"]


def test_finetune_is_the_default() -> None:
    assert parse("train", COMMANDS["train"], ["--config", str(ROOT / "configs" / "finetune.yaml")]) == TrainConfig()


def test_options_on_the_command_line_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  epochs: 7\n  seed: 3\n")
    config = parse("train", COMMANDS["train"], ["--config", str(file), "--train.epochs", "9"])
    assert (config.train.epochs, config.train.seed) == (9, 3)


@pytest.mark.parametrize("field", ["epochs", "batch_size", "image_size"])
def test_values_are_validated_on_construction(field: str) -> None:
    with pytest.raises(ConfigError, match=f"train.{field}"):
        TrainLoopConfig(**{field: 0})


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_help_says_what_every_option_means(name: str) -> None:
    text = run(f"tools/{name}", "--help")
    options = [line for line in text.splitlines() if line.lstrip().startswith("--")]
    assert len(options) >= 5
    assert "Weights file" in text


def test_print_config_can_be_fed_back(tmp_path: Path) -> None:
    file = tmp_path / "printed.yaml"
    file.write_text(run("tools/train.py", "--train.epochs", "5", "--data", "somewhere", "--print_config"))
    config = parse("train", COMMANDS["train"], ["--config", str(file)])
    assert (config.train.epochs, config.data) == (5, "somewhere")


def test_importing_the_package_imports_no_torch() -> None:
    assert run("-c", "import detector, sys; print('torch' in sys.modules)").strip() == "False"
