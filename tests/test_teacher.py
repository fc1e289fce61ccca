"""Distillation: the loss by its definition, its zero at the teacher, classes by name, and training with it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lively_model import lively_model
from safetensors.torch import load_file
from small_run import small_config

from detector.config import LossConfig
from detector.data.load import load_split
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DetectorError
from detector.structures import Categories, RawPredictions
from detector.training.callbacks import Callback, CheckpointWritten
from detector.training.loop import train
from detector.training.teacher import Teacher, distillation_loss
from detector.weights.files import WeightsInfo, save_weights

CONFIG = LossConfig(classification=0.5, distribution=1.5)


def random_raw(seed: int, spread: float = 2.0) -> RawPredictions:
    generator = torch.Generator().manual_seed(seed)
    shape = {"generator": generator, "dtype": torch.float64}
    return RawPredictions(spread * torch.randn(2, 64, 7, **shape), spread * torch.randn(2, 3, 7, **shape))


def by_definition(student: RawPredictions, teacher: RawPredictions) -> float:
    """Bernoulli and categorical divergences by loops, as in the docstring of `distillation_loss`."""
    classes = sides = total = 0.0
    for image in range(2):
        for anchor in range(7):
            largest = 0.0
            for label in range(3):
                p, q = (1 / (1 + math.exp(-float(each.scores[image, label, anchor]))) for each in (teacher, student))
                classes += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                largest = max(largest, p)
            total += largest
            for side in range(4):
                bins = slice(16 * side, 16 * side + 16)
                exps = [[math.exp(float(v)) for v in each.boxes[image, bins, anchor]] for each in (teacher, student)]
                p_bins, q_bins = ([v / sum(each) for v in each] for each in exps)
                sides += largest / 4 * sum(p * math.log(p / q) for p, q in zip(p_bins, q_bins, strict=True))
    return (0.5 * classes + 1.5 * sides) / max(total, 1)


def test_loss_is_that_of_its_definition() -> None:
    student, teacher = random_raw(0), random_raw(1)
    assert distillation_loss(student, teacher, CONFIG).item() == pytest.approx(
        by_definition(student, teacher), rel=1e-12
    )
    unsure = RawPredictions(teacher.boxes, teacher.scores - 20)  # the weights add up to less than 1
    assert distillation_loss(student, unsure, CONFIG).item() == pytest.approx(by_definition(student, unsure), rel=1e-9)


def test_nothing_is_to_be_learned_from_an_equal() -> None:
    student = RawPredictions(*(each.requires_grad_() for each in random_raw(0)))
    loss = distillation_loss(student, RawPredictions(*(each.detach().clone() for each in student)), CONFIG)
    loss.backward()  # type: ignore[no-untyped-call]
    assert abs(loss.item()) < 1e-12
    assert all(each.grad is not None and each.grad.abs().max() < 1e-12 for each in student)


def save(path: Path, names: tuple[str, ...], model: str = "yolo11n") -> str:
    categories = Categories(tuple(range(len(names))), names)
    save_weights(path, lively_model(len(names), model), WeightsInfo(model, categories, 64, {}, {}, "CC0-1.0"))
    return str(path)


def test_classes_go_by_name(tmp_path: Path) -> None:
    weights = save(tmp_path / "w.safetensors", ("cat", "dog", "hen"))
    images = torch.rand(1, 3, 64, 64)
    same = Teacher(weights, Categories((1, 2, 3), ("cat", "dog", "hen")))(images)
    turned = Teacher(weights, Categories((7, 8, 9), ("hen", "cat", "dog")))(images)
    assert torch.equal(turned.scores, same.scores[:, [2, 0, 1]])
    assert torch.equal(turned.boxes, same.boxes)
    for names in (("cat", "dog"), ("cat", "dog", "cow"), ("cat", "cat", "dog")):
        with pytest.raises(ConfigError, match=r"--teacher: .* knows the classes cat, dog, hen; these data have"):
            Teacher(weights, Categories(tuple(range(len(names))), names))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolo11n", "yolov9t"])
def test_training_with_a_teacher_resumes_exactly(model: str, tmp_path: Path) -> None:
    """The teacher is one of another family; yolov9t has an auxiliary branch, too."""
    make_dataset(tmp_path / "data", seed=1, train=8, val=3, test=3)
    names = load_split(str(tmp_path / "data"), "val").categories.names
    weights = save(tmp_path / "teacher.safetensors", names)
    settings = {"model": model, "weights": "scratch", "epochs": 2}

    def weights_of(run: str) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / run / "last.safetensors")

    train(small_config(tmp_path / "data", tmp_path / "taught", teacher=weights, **settings))
    train(small_config(tmp_path / "data", tmp_path / "alone", **settings))
    assert any(not torch.equal(each, weights_of("alone")[name]) for name, each in weights_of("taught").items())

    class Stop(Callback):
        def checkpoint_written(self, event: CheckpointWritten) -> None:
            if event.epoch == 1:
                raise KeyboardInterrupt

    config = small_config(tmp_path / "data", tmp_path / "resumed", teacher=weights, **settings)
    with pytest.raises(DetectorError, match="interrupted after 1 of 2 epochs"):
        train(config, callbacks=[Stop()])
    train(replace(config, resume=config.out))
    for name, tensor in weights_of("taught").items():
        assert torch.equal(tensor, weights_of("resumed")[name]), name
