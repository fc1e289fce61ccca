"""Frozen modules don't change by one bit while the rest learns; names that freeze nothing are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import small_config

from detector.cli import COMMANDS, parse
from detector.config import TrainConfig
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError
from detector.models.catalog import create_model
from detector.training.freeze import freeze, train_mode
from detector.training.loop import train
from detector.training.optim import build_optimizer

FROZEN = ("stem.", "stage2.", "head.box_branches.1.", "attention.")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=12, val=4, test=3)
    return root


@pytest.mark.slow
def test_a_run_leaves_frozen_modules_as_they_were(scenes: Path, tmp_path: Path) -> None:
    names = [name.removesuffix(".") for name in FROZEN]
    train(small_config(scenes, tmp_path, freeze=names))
    torch.manual_seed(0)
    start = create_model("yolo11n", len(load_file(tmp_path / "last.safetensors")["head.class_branches.0.2.bias"]))
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    for state in (content["model"], content["ema"]):
        for name, tensor in start.state_dict().items():
            assert torch.equal(state[name], tensor) == name.startswith(FROZEN), name


def test_frozen_modules_are_not_in_the_optimizer_and_norms_keep_their_statistics() -> None:
    model = create_model("yolo11n", 2)
    freeze(model, ["stem.1", "stage4"])
    train_mode(model)
    in_optimizer = {id(p) for group in build_optimizer(model, TrainConfig()).param_groups for p in group["params"]}
    for name, module in model.named_modules():
        inside = f"{name}.".startswith(("stem.1.", "stage4."))
        assert all((id(p) in in_optimizer) != inside for p in module.parameters(recurse=False))
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training != inside, name
    assert model.training
    assert model.stem[0].bn.training


def test_no_names_freeze_nothing() -> None:
    model = create_model("yolo11n", 2)
    freeze(model, [])
    train_mode(model.eval())
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stage22", "did you mean one of stage2"),
        ("stage", "did you mean one of stage"),
        ("head.box_branch", "head.box_branches"),
        ("q", "did you mean one of stem, stage2, down3"),  # nothing is near: the outermost
        ("", "did you mean one of stem"),
        ("stem.0.act", "stem.0"),  # has nothing to freeze
    ],
)
def test_a_name_that_matches_nothing_is_refused_with_near_ones(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.freeze") as caught:
        freeze(create_model("yolo11n", 2), ["stem", name])
    assert repr(name) in str(caught.value)
    assert hint in str(caught.value)


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    model = create_model("yolo11n", 2)
    with pytest.raises(ConfigError, match="whole model"):
        freeze(model, [name for name, child in model.named_children() if list(child.parameters())])


def test_the_command_line_takes_a_list() -> None:
    parsed = parse("train", COMMANDS["train"], ["--data=x", "--train.freeze=[stem, stage2]"])
    assert parsed.train.freeze == ["stem", "stage2"]
    with pytest.raises(ConfigError, match=r"train\.freeze: invalid value 'stem': expected a list"):
        parse("train", COMMANDS["train"], ["--data=x", "--train.freeze=stem"])
