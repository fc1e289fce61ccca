"""augment.device cuda, on CPU tensors: the boxes of the CPU way to the bit, and its pixels but for rounding."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planned import planned
from small_run import small_config

from detector.cli import main
from detector.config import AugmentConfig, TrainConfig
from detector.data import device_drawing
from detector.data.augment import color_matrix
from detector.data.coco import CocoDataset
from detector.data.device_drawing import PackedDrawings
from detector.data.drawing import Composition, Drawing, Part
from detector.data.load import load_split
from detector.data.loader import TrainDataset, UndrawnBatch, collate, drawn, train_loader
from detector.data.sample import Sample
from detector.data.sampler import EpochSampler, SampleKey
from detector.data.workers import batches_of
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DetectorError
from detector.structures import Batch, Targets
from detector.training import loop, setup
from detector.training.dataset import augmented_batch, build_train_dataset

CPU = torch.device("cpu")
SIZE = (64, 96)
TURNED = {"rotate": 60.0, "shear": 8.0, "perspective": 0.3, "flipud": 0.5}
CONFIGS = {
    "default": AugmentConfig(),
    "turned": AugmentConfig(**TURNED, scale=0.5),
    "small": AugmentConfig(mosaic=0.5, scale=0.9, saturation=0.7, brightness=0.6, hue=0.2),
    "all": AugmentConfig(mosaic=0.6, scale=0.8, mixup=0.6, copy_paste=0.7, **TURNED),
    "over each other": AugmentConfig(mosaic=0.3, mixup=0.5, copy_paste=0.5, flipud=0.5),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=12, val=3, test=3)
    return root


@pytest.fixture(scope="module")
def images(scenes: Path) -> CocoDataset:
    return load_split(str(scenes), "train", polygons=True)


def both(images: CocoDataset, config: AugmentConfig, size: tuple[int, int] = SIZE) -> tuple[TrainDataset, TrainDataset]:
    """Drawn by the workers, and not."""
    one, other = (
        TrainDataset(images, size, replace(config, device=way), seed=7, cache_gb=0.1) for way in ("cpu", "cuda")
    )
    return one, other


def keys(images: CocoDataset, epochs: int = 2) -> list[SampleKey]:
    return [
        SampleKey(epoch, index, weak)
        for epoch in range(epochs)
        for index in range(len(images))
        for weak in (False, True)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_boxes_and_labels_are_those_of_the_cpu_way_to_the_bit(name: str, images: CocoDataset) -> None:
    one, other = both(images, CONFIGS[name])
    for key in keys(images):
        first, second = one[key], other[key]
        assert isinstance(first.sample, Sample)
        assert isinstance(second.sample, Composition)
        for field in ("boxes", "labels", "crowd_boxes"):
            expected, found = getattr(first.sample, field), getattr(second.sample, field)
            assert (expected.dtype, expected.tolist()) == (found.dtype, found.tolist())
        assert first[1:] == second[1:]


def reference(drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """In float64 and a pixel at a time as a formula has it, not rounded; and where no rounding can say whether a source covers
    a pixel."""
    height, width = drawing.size
    y, x = np.mgrid[:height, :width] + 0.5
    image, unsure = np.zeros((height, width, 3)), np.zeros((height, width), np.bool_)
    for number, layer in enumerate(drawing.layers):
        above = np.full((height, width, 3), 114.0)
        for part in layer.parts:
            color, inside, at_the_rim = seen_of(part, x, y)
            above[inside] = color[inside]
            unsure |= at_the_rim
        through = 0.0 if number == 0 else layer.transparency
        share = through[..., None] if isinstance(through, np.ndarray) else through
        image = image * share + above * (1 - share)
    if drawing.colors is not None:
        image = image @ drawing.colors.T
    for flipped, axis in ((drawing.mirrored, 1), (drawing.upside_down, 0)):
        if flipped:
            image, unsure = np.flip(image, axis), np.flip(unsure, axis)
    return image.clip(0, 255), unsure


def seen_of(part: Part, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The source's color at points of the output, where it covers them, and where they are within 0.01 px of its rim."""
    height, width = part.image.shape[:2]
    u, v, nearness = np.einsum("ij,jhw->ihw", np.linalg.inv(part.matrix), np.stack([x, y, np.ones_like(x)]))
    u, v = u / nearness, v / nearness
    if part.region is None:
        to_rim = np.minimum(np.minimum(u, width - u), np.minimum(v, height - v))
        inside, at_the_rim = to_rim >= 0, np.abs(to_rim) < 0.01
    else:
        left, top, right, bottom = part.region
        inside, at_the_rim = (x > left) & (x < right) & (y > top) & (y < bottom), np.zeros_like(x, np.bool_)
    source = part.image.astype(np.float64)
    columns, rows = np.floor(u - 0.5).astype(int), np.floor(v - 0.5).astype(int)
    color = np.zeros((*x.shape, 3))
    for right, down in np.ndindex(2, 2):
        weights = np.abs(1 - right - (u - 0.5 - columns)) * np.abs(1 - down - (v - 0.5 - rows))
        color += weights[..., None] * source[(rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
    return color, inside, at_the_rim


@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_are_those_of_the_formula_in_float64(name: str, images: CocoDataset) -> None:
    """To half a level of rounding. Positions below 1,000 px have an error of less than 0.0005 px in float32, and colors change by
    at most 255 a pixel along x and y: a quarter of a level, times what brightness and saturation make of it."""
    _, other = both(images, CONFIGS[name])
    drawings = [other[key].sample.drawing for key in keys(images, 1)]
    found = PackedDrawings.of(drawings).draw(CPU)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    compared = 0
    for drawing, image in zip(drawings, found.permute(0, 2, 3, 1).numpy(), strict=True):
        expected, unsure = reference(drawing)
        assert np.abs(image - expected)[~unsure].max() < 1.5
        compared += (~unsure).sum()
    assert compared > 0.9 * len(drawings) * SIZE[0] * SIZE[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_differ_from_those_of_opencv_by_rounding(name: str, images: CocoDataset) -> None:
    """OpenCV rounds to whole levels after the warp, the blend and the colors, here it is once; and some releases of it take
    positions in 32nds of a pixel."""
    one, other = both(images, CONFIGS[name])
    expected, found = (collate([way[key] for key in keys(images, 2)]) for way in (one, other))
    assert isinstance(expected, Batch)
    difference = (expected.images.double() - drawn(found, CPU).images).abs()
    assert difference.mean() < 1
    assert (difference > 8).double().mean() < 0.01  # at the rims of turned images


def test_colors_are_within_a_level_of_opencv() -> None:
    rng = np.random.default_rng(0)
    none = np.zeros((0, 4), np.float32)
    noise = planned(Sample(rng.integers(0, 256, (64, 64, 3), np.uint8), none, np.zeros(0, np.int64), none)).drawing
    drawings = [
        replace(noise, colors=color_matrix(*rng.uniform((-0.5, 0.0, 0.4), (0.5, 2.0, 1.6))), mirrored=bool(index % 2))
        for index in range(40)
    ]
    found = PackedDrawings.of(drawings).draw(CPU).permute(0, 2, 3, 1).numpy().astype(int)
    for drawing, image in zip(drawings, found, strict=True):
        assert np.abs(image - drawing.pixels()).max() <= 1


@pytest.mark.slow
def test_distributions_of_boxes_and_colors_match(images: CocoDataset) -> None:
    """Over 288 samples: boxes are the same, so their histograms are; colors by image and by channel, and all levels together."""
    some = [SampleKey(epoch, index, epoch % 4 == 0) for epoch in range(24) for index in range(len(images))]
    one, other = (
        drawn(collate([way[key] for key in some]), CPU) for way in both(images, CONFIGS["over each other"], (32, 64))
    )
    assert len(some) == len(other.images) == 288
    for field in ("boxes", "labels", "crowd_boxes"):
        first, second = (torch.cat([getattr(target, field) for target in batch.targets]) for batch in (one, other))
        assert torch.equal(first, second)
    means = [batch.images.double().mean(dim=(2, 3)) for batch in (one, other)]
    assert (means[0] - means[1]).abs().max() < 1
    spreads = [batch.images.double().std(dim=(2, 3)) for batch in (one, other)]
    assert (spreads[0] - spreads[1]).abs().max() < 1
    levels = [torch.bincount(batch.images.flatten().long() // 8, minlength=32) for batch in (one, other)]
    assert (levels[0] - levels[1]).abs().sum() / one.images.numel() < 0.05


def test_what_the_output_does_not_show_is_not_copied(images: CocoDataset) -> None:
    """Of four images of a mosaic about as many pixels as the output has, where nothing is scaled."""
    _, other = both(images, AugmentConfig(scale=0.0))
    drawings = [other[key].sample.drawing for key in keys(images) if not key.weak_aug]
    packed = PackedDrawings.of(drawings)
    whole = sum(part.image.size for drawing in drawings for part in drawing.layers[0].parts)
    assert packed.pixels.numel() < 0.5 * whole


def test_images_drawn_in_several_steps_are_the_same(images: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = both(images, CONFIGS["all"])
    packed = PackedDrawings.of([other[key].sample.drawing for key in keys(images)])
    whole = packed.draw(CPU)
    monkeypatch.setattr(device_drawing, "DRAWN_AT_ONCE", 5 * SIZE[0] * SIZE[1])
    assert torch.equal(packed.draw(CPU), whole)


def test_drawing_never_waits_for_the_device(images: CocoDataset) -> None:
    """A tensor without values takes all the steps: none of them needs a value on the host."""
    _, other = both(images, CONFIGS["all"])
    packed = PackedDrawings.of([other[key].sample.drawing for key in keys(images)])
    found = packed.draw(torch.device("meta"))
    assert (found.shape, found.dtype) == ((len(keys(images)), 3, *SIZE), torch.uint8)


def test_an_image_out_of_view_is_gray() -> None:
    none = np.zeros((0, 4), np.float32)
    drawing = planned(Sample(np.zeros((64, 64, 3), np.uint8), none, np.zeros(0, np.int64), none)).drawing
    far = np.array([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]])
    (layer,) = drawing.layers
    away = replace(drawing, layers=(replace(layer, parts=(replace(layer.parts[0], matrix=far, region=None),)),))
    empty = replace(drawing, layers=(replace(layer, parts=()),))
    found = PackedDrawings.of([drawing, away, empty]).draw(CPU)
    assert [found[index].unique().tolist() for index in range(3)] == [[0], [114], [114]]
    for alone in (away, empty):
        assert PackedDrawings.of([alone]).draw(CPU).unique().tolist() == [114]


@pytest.mark.slow
def test_batches_come_out_of_workers_as_they_are(images: CocoDataset) -> None:
    _, other = both(images, CONFIGS["all"])
    sampler = EpochSampler(len(images), 5, seed=3)
    loaders = [batches_of(train_loader(other, sampler, workers, pin_memory=False)) for workers in (0, 2)]
    for one, two in zip(*loaders, strict=True):
        assert isinstance(two, UndrawnBatch)
        assert torch.equal(one.draw(CPU).images, two.draw(CPU).images)
        assert one.image_indices == two.image_indices
        assert [target.boxes.tolist() for target in one.targets] == [target.boxes.tolist() for target in two.targets]


def test_all_of_a_batch_is_pinned(images: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a copy to the GPU does not wait for must be: here without one."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    _, other = both(images, CONFIGS["all"])
    batch = collate([other[key] for key in keys(images)])
    assert isinstance(batch, UndrawnBatch)
    assert torch.equal(batch.pin_memory().draw(CPU).images, batch.draw(CPU).images)
    assert len(pinned) == 7


def test_a_batch_without_readable_images_is_empty() -> None:
    batch = collate([])
    assert isinstance(batch, Batch)
    assert len(drawn(batch, CPU).images) == 0


def test_the_preview_draws_on_the_cpu(scenes: Path, images: CocoDataset, tmp_path: Path) -> None:
    config = small_config(scenes, tmp_path / "run", augment=AugmentConfig(device="cuda"))
    plain = replace(config, augment=AugmentConfig())
    one, other = (augmented_batch(each, images, 0) for each in (plain, config))
    assert torch.equal(one.images, other.images)


# ---- trainings


def test_transforms_are_refused_beside_it() -> None:
    with pytest.raises(ConfigError, match=r"augment\.device: cuda can't apply augment\.transforms.*leave one"):
        AugmentConfig(device="cuda", transforms=[{"ToGray": {"p": 0.01}}])


def test_without_a_gpu_it_is_one_line(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(scenes), "--out", str(tmp_path / "run"), "--device", "cpu", "--augment.device", "cuda"]
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "augment.device: cuda augments images on the GPU that trains, but this training is on cpu" in line
    assert "--augment.device cpu" in line
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.fixture
def on_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU."""
    monkeypatch.setattr(setup, "require_augmentation_on", lambda *_: None)


def undrawn_config(scenes: Path, out: Path, **settings: Any) -> TrainConfig:
    augment = AugmentConfig(device="cuda", mixup=0.5, copy_paste=0.5, rotate=10.0)
    return small_config(scenes, out, augment=augment, **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu_tensors")
def test_training_is_shown_the_same_images_but_for_rounding(scenes: Path, tmp_path: Path) -> None:
    config = undrawn_config(scenes, tmp_path / "run", tiles=160, overlap=0.25, multi_scale=0.5)
    run, _ = setup.set_up(config)
    assert isinstance(next(iter(run.loader)), UndrawnBatch)
    dataset, sampler = build_train_dataset(
        replace(config, augment=replace(config.augment, device="cpu")), run.train_dataset
    )
    batches = [batch for group in loop.accumulation_groups(run) for batch in group]
    assert len({batch.images.shape for batch in batches}) > 1
    for keys_of_batch, batch in zip(sampler, batches, strict=True):
        expected = collate([dataset[key] for key in keys_of_batch])
        assert (expected.images.double() - batch.images).abs().mean() < 1
        assert all(same(*pair) for pair in zip(expected.targets, batch.targets, strict=True))


def same(one: Targets, other: Targets) -> bool:
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.labels, other.labels)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu_tensors")
def test_a_run_resumes_exactly_and_says_when_the_device_changes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = undrawn_config(scenes, tmp_path / "run", checkpoint_minutes=0.0), tmp_path / "run"
    loop.train(config)
    weights = (out / "last.safetensors").read_bytes()
    out.rename(tmp_path / "whole")
    take_step = loop.take_step

    def asked_to_stop(run: Any, state: Any, batches: Any) -> Any:
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(run, state, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", asked_to_stop)
        with pytest.raises(DetectorError, match="after 1 of 2 epochs and 2 of 3 batches"):
            loop.train(config)
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "last.safetensors").read_bytes() == weights
    capsys.readouterr()
    assert main(["train", "--resume", str(out), "--augment.device", "cpu"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "not bit for bit as the uninterrupted run would go on: augment.device cuda before, cpu now" in printed
