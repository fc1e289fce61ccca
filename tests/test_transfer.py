"""Weights of other classes: rows go by name, layers that don't fit stay as initialized, all else is taken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lively_model import lively_model
from torch import Tensor

from detector.config import TrainConfig
from detector.errors import ConfigError
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.training.setup import build_model
from detector.weights.files import WeightsInfo, save_weights
from detector.weights.transfer import transfer
from detector.weights.widen import widen

ROWS = tuple(f"head.class_branches.{level}.2.{kind}" for level in range(3) for kind in ("weight", "bias"))


def classes(*names: str) -> Categories:
    return Categories(tuple(range(1, len(names) + 1)), names)


def learnt(num_classes: int, name: str = "yolo11n") -> DetectionModel:
    """A network without any value that a fresh one has."""
    model = create_model(name, num_classes)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) + 5 if tensor.is_floating_point() else torch.full(tensor.shape, 9))
    return model


def transferred(
    own: Categories, known: Categories
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], str]:
    """The states of the fresh model before, of the source, and of the model after; and the line."""
    torch.manual_seed(0)
    model, source = create_model("yolo11n", len(own)), learnt(len(known))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    line = transfer(model, own, source, known)
    return before, source.state_dict(), model.state_dict(), line


def require_rows(own: Categories, known: Categories, rows: dict[int, int]) -> str:
    """Row i of the result is row rows[i] of the source, or as initialized; everything else is the source's."""
    before, source, after, line = transferred(own, known)
    for name, tensor in after.items():
        if name not in ROWS:
            assert torch.equal(tensor, source[name]), name
            continue
        for row in range(len(own)):
            expected = source[name][rows[row]] if row in rows else before[name][row]
            assert torch.equal(tensor[row], expected), (name, row)
    return line


@pytest.mark.parametrize(
    ("own", "known", "rows", "line"),
    [
        ("cat dog cow", "cow bird cat", {0: 2, 2: 0}, "classes kept: cat, cow; new: dog; dropped: bird"),
        ("cat dog", "cat dog", {0: 0, 1: 1}, "classes kept: cat, dog; new: none; dropped: none"),
        ("cat dog", "Cat cow hen", {}, "classes kept: none; new: cat, dog; dropped: Cat, cow, hen"),
        ("cat", "dog cat", {0: 1}, "classes kept: cat; new: none; dropped: dog"),
        # names that are there twice: first to first, second to second
        (
            "cell cell dot",
            "dot cell cell",
            {0: 1, 1: 2, 2: 0},
            "classes kept: cell, cell, dot; new: none; dropped: none",
        ),
        ("cell cell", "cell dot", {0: 0}, "classes kept: cell; new: cell; dropped: dot"),
        ("cell dot", "cell cell", {0: 0}, "classes kept: cell; new: dot; dropped: cell"),
    ],
)
def test_rows_go_by_name_and_everything_else_is_taken(own: str, known: str, rows: dict[int, int], line: str) -> None:
    assert require_rows(classes(*own.split()), classes(*known.split()), rows) == line


@pytest.mark.slow
def test_yolov9_keeps_what_yolo11_keeps() -> None:
    model, source = create_model("yolov9t", 2), learnt(3, "yolov9t")
    fresh = {name: model.state_dict()[name].clone() for name in ROWS}
    line = transfer(model, classes("cat", "dog"), source, classes("hen", "cow", "cat"))
    assert line == "classes kept: cat; new: dog; dropped: hen, cow"
    for name, tensor in model.state_dict().items():
        learnt_tensor = source.state_dict()[name]
        if name in ROWS:
            assert torch.equal(tensor[0], learnt_tensor[2]), name
            assert torch.equal(tensor[1], fresh[name][1]), name
        else:
            assert torch.equal(tensor, learnt_tensor), name


def test_category_ids_are_of_no_account() -> None:
    require_rows(Categories((90, 7), ("a", "b")), Categories((7, 90), ("b", "c")), {1: 0})


def test_many_classes_are_shortened_in_the_line() -> None:
    names = [f"class{number}" for number in range(64)]  # as many as leave the width of the branch at 64
    _, _, _, line = transferred(classes("class3", "other"), classes(*names))
    assert line == ("classes kept: class3; new: other; dropped: class0, class1, class2, class4, class5, class6, … (63)")


@pytest.mark.parametrize(("own", "known"), [(3, 80), (80, 3)])
def test_a_class_branch_of_another_width_starts_anew(own: int, known: int) -> None:
    """With equal names too: the rows of the last layers read channels that mean something else now."""
    names = [f"class{number}" for number in range(80)]
    before, source, after, line = transferred(classes(*names[:own]), classes(*names[:known]))
    anew = {
        name
        for name in after
        if name.startswith("head.class_branches.") and ".0.0." not in name.removeprefix("head.class_branches.")[1:]
    }
    for name, tensor in after.items():
        assert torch.equal(tensor, (before if name in anew else source)[name]), name
    assert all(before[name].shape != source[name].shape for name in ROWS)
    assert line.startswith(
        f"no class is kept: with {own} classes the class branch is of another width than with {known}"
    )


def save(path: Path, model_name: str, categories: Categories) -> None:
    info = WeightsInfo(model_name, categories, 64, {}, {}, "CC0-1.0")
    save_weights(path, create_model(model_name, len(categories)), info)


def test_training_says_what_it_keeps_and_refuses_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.safetensors"
    save(path, "yolo11n", classes("cat", "dog"))
    config = TrainConfig(model="yolo11n", weights=str(path))
    build_model(config, classes("dog", "hen"), torch.device("cpu"))
    assert capsys.readouterr().out == f"start from {path}: classes kept: dog; new: hen; dropped: cat\n"
    with pytest.raises(ConfigError, match="is for yolo11n, not yolo11m; add --model yolo11n"):
        build_model(replace(config, model="yolo11m"), classes("dog", "hen"), torch.device("cpu"))


def test_twice_the_width_computes_the_same() -> None:
    """In float64, with weights and statistics that no two layers share; and training can tell the copies of a channel apart."""
    narrow = lively_model(5).double()
    wide = create_model("yolo11s", 5).double().eval()
    widen(wide, narrow)
    images = torch.rand(2, 3, 96, 128, dtype=torch.float64)
    with torch.no_grad():
        expected, found = narrow.logits(images)[0], wide.logits(images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert expected.scores.std() > 0.01
    first, second = wide.stage2.merge.conv.weight.unflatten(1, (-1, 2)).unbind(2)  # type: ignore[union-attr]
    assert not torch.isclose(first, second).any()


def test_yolo11s_starts_from_the_narrower_ones_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, narrow = tmp_path / "w.safetensors", learnt(2)
    save_weights(path, narrow, WeightsInfo("yolo11n", classes("cat", "dog"), 64, {}, {}, "CC0-1.0"))
    config = TrainConfig(model="yolo11s", weights=str(path))
    model, _ = build_model(config, classes("dog", "bird", "cat"), torch.device("cpu"))
    assert torch.equal(model.stem[0].bn.bias, narrow.stem[0].bn.bias.repeat_interleave(2))  # type: ignore[index, union-attr]
    printed = capsys.readouterr().out
    assert "for yolo11n, made twice as wide for yolo11s" in printed
    assert "classes kept: dog, cat; new: bird" in printed


def test_weights_of_many_classes_cannot_be_widened(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save(path, "yolo11n", classes(*(f"class{number}" for number in range(80))))
    config = TrainConfig(model="yolo11s", weights=str(path))
    with pytest.raises(ConfigError, match=r"80 classes, can't start yolo11s: .*; add --model yolo11n"):
        build_model(config, classes("cat"), torch.device("cpu"))
