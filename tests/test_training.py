"""The loop and its parts: what a run leaves, that it can be repeated and resumed, and that it learns."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_run import small_config

import detector.training.batch_size as batch_size
import detector.training.loop as loop
import detector.training.loss as loss
import detector.training.step as step
from detector.boxes import make_anchors
from detector.cli import COMMANDS, parse
from detector.config import AugmentConfig, LossConfig, PathsConfig, TrainConfig, TrainLoopConfig
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.loader import TrainDataset, TrainItem, collate, train_loader
from detector.data.sampler import EpochSampler, SampleKey
from detector.data.workers import batches_of
from detector.demo.scenes import make_dataset
from detector.errors import ConfigError, DetectorError
from detector.evaluation.coco_metrics import METRICS
from detector.images.input_size import InputSize
from detector.models.base import scale_pixels
from detector.models.catalog import create_model
from detector.models.pgi import add_auxiliary
from detector.training.batch_size import largest_batch, largest_batch_size
from detector.training.checkpoint import TrainState
from detector.training.ema import ModelEma
from detector.training.loop import accumulation_groups, train
from detector.training.loss import Losses, detection_loss, training_loss
from detector.training.optim import build_optimizer, learning_rate, set_lr
from detector.training.setup import Run, set_up
from detector.training.step import backward, take_step
from detector.weights.files import load_weights


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=12, val=4, test=3)
    return root


def same_weights(first: Path, second: Path) -> bool:
    one, two = load_file(first / "last.safetensors"), load_file(second / "last.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(small_config(scenes, out, epochs=3))
    return out


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_lists(whole_run: Path) -> None:
    names = {path.name for path in whole_run.iterdir()}
    assert names == {
        "best.safetensors",
        "last.safetensors",
        "last.pt",
        "metrics.jsonl",
        "metrics.csv",
        "tensorboard",
        "config.yaml",
        "environment.json",
    }
    rows = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"AP", "AP50", "ARlarge", "box_loss", "class_loss", "distribution_loss"} <= rows[0].keys()
    assert (
        json.loads((whole_run / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    )


@pytest.mark.slow
def test_checkpoints_load_without_running_code(whole_run: Path) -> None:
    content = torch.load(whole_run / "last.pt", weights_only=True)
    assert content["epoch"] == 3
    averaged = load_file(whole_run / "last.safetensors")
    assert all(torch.equal(averaged[name], tensor) for name, tensor in content["ema"].items())
    assert any(not torch.equal(content["model"][name], tensor) for name, tensor in content["ema"].items())


@pytest.mark.slow
def test_a_run_can_be_repeated_with_any_number_of_workers(scenes: Path, whole_run: Path, tmp_path: Path) -> None:
    train(small_config(scenes, tmp_path / "again", epochs=3, workers=2))
    assert same_weights(whole_run, tmp_path / "again")
    train(small_config(scenes, tmp_path / "other", epochs=3, seed=1))
    assert not same_weights(whole_run, tmp_path / "other")


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_whole_run_ends(
    scenes: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    original, calls = loop.validate, []

    def interrupted(*arguments: object) -> dict:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "validate", interrupted)
    with pytest.raises(Exception, match=f"--resume {out}"):
        train(small_config(scenes, out, epochs=3))
    monkeypatch.setattr(loop, "validate", original)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    train(replace(small_config(scenes, out, epochs=3), resume=str(out)))
    assert same_weights(whole_run, out)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n", "yolov9t"])
def test_the_network_learns_a_batch_by_heart(name: str, scenes: Path) -> None:
    """yolov9t with its auxiliary branch."""
    torch.manual_seed(0)
    ranges = dict.fromkeys(("mosaic", "scale", "translate", "fliplr", "hue", "saturation", "brightness"), 0.0)
    augment = AugmentConfig(**ranges)
    images = TrainDataset(CocoDataset.load(find_split(scenes, "train")), 96, augment, seed=0)
    batch = collate([images[SampleKey(0, i, True)] for i in (0, 3, 4, 5)])
    network = add_auxiliary(create_model(name, 5))
    optimizer = build_optimizer(network, TrainConfig(lr=0.003))
    anchors = make_anchors([(12, 12), (6, 6), (3, 3)], (8, 16, 32), like=torch.zeros(1))
    pixels = scale_pixels(batch.images)
    for _ in range(80):
        losses, total = training_loss(network(pixels), anchors, batch, LossConfig())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert sum(len(target.labels) for target in batch.targets) > 4
    assert losses.classification < 0.8
    assert losses.box < 2.0


@pytest.mark.slow
def test_a_run_with_a_rectangle(scenes: Path, tmp_path: Path) -> None:
    train(small_config(scenes, tmp_path / "run", epochs=1, image_size=(64, 96), repeat_threshold=0.5, multi_scale=0.4))
    _, info = load_weights(tmp_path / "run" / "best.safetensors")
    assert info.image_size == (64, 96)
    resumed = parse("train", COMMANDS["train"], ["--resume", str(tmp_path / "run")])
    assert resumed.image_size == (64, 96)
    run, _ = set_up(resumed)
    shapes = {tuple(batch.images.shape[2:]) for batch in run.loader}
    assert len(shapes) > 1
    assert shapes <= {(32, 64), (64, 96), (96, 128)}
    assert len(run.anchors(InputSize(32, 64)).points) == 4 * 8 + 2 * 4 + 1 * 2


@pytest.mark.slow
def test_early_stop(scenes: Path, tmp_path: Path) -> None:
    result = train(small_config(scenes, tmp_path / "run", epochs=9, patience=1, lr=0.0))
    assert result["epoch"] == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_patience_waits_where_there_is_nothing_to_measure(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    path = find_split(data, "val").annotations
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    result = train(small_config(data, tmp_path / "run", epochs=3, patience=1))
    assert (result["epoch"], result["AP"]) == (3, None)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("no AP: the validation images hold nothing to measure it on") == 1
    assert "no AP, nothing to measure it on; epoch 3:" in printed
    assert "best AP" not in printed


def test_a_step_sums_the_gradients_of_its_forward_passes(scenes: Path, tmp_path: Path) -> None:
    config = small_config(scenes, tmp_path / "run", epochs=1)
    config = replace(config, train=replace(config.train, nominal_batch_size=8))
    run, state = set_up(config)
    assert (run.accumulate, run.steps_per_epoch) == (2, 2)
    batches = list(run.loader)[:2]
    state.model.train()
    name = "head.class_branches.0.2.bias"
    gradients = []
    for chosen in ([batches[0]], [batches[1]], batches):
        state.optimizer.zero_grad()
        for batch in chosen:
            backward(run, state, batch, last=True)
        gradients.append(state.model.get_parameter(name).grad.clone())
    assert torch.allclose(gradients[2], gradients[0] + gradients[1], rtol=1e-4)
    assert [len(group) for group in accumulation_groups(run)] == [2, 1]


@pytest.mark.parametrize("name", ["yolo11n", "yolo11n-cross", "yolov9t"])
def test_a_batch_of_one_image_of_one_cell_is_learned_from(name: str, scenes: Path, tmp_path: Path) -> None:
    """The last of an epoch at 32 px, or at a larger size with train.multi_scale: batch norm has one value a channel."""
    run, state = set_up(small_config(scenes, tmp_path / "run", model=name, image_size=32))
    batch = next(iter(run.loader))
    one = replace(batch, images=batch.images[:1], targets=batch.targets[:1])
    assert max(one.images.shape[2:]) == 32
    before = [parameter.clone() for parameter in state.model.parameters()]
    for _ in range(4):  # the learning rate begins at 0
        loop.set_learning_rate(run, state)
        take_step(run, state, [one])
    assert state.stats.images == 4
    assert state.stats.skipped_steps == 0
    assert any(not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True))


@pytest.mark.slow
def test_a_run_whose_last_batch_is_one_image_of_one_cell_ends(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", seed=1, train=5, val=3, test=3)
    out = tmp_path / "run"
    train(small_config(tmp_path / "data", out, epochs=1, batch_size=2, image_size=32, multi_scale=0.5))
    assert (out / "best.safetensors").exists()


@pytest.mark.slow
def test_a_diverged_run_stops_and_keeps_its_last_checkpoint(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TrainConfig.RANGES, "lr", (0, 1e12))
    out = tmp_path / "run"
    with pytest.raises(DetectorError, match=r"not finite.*--lr below"):
        train(small_config(scenes, out, lr=1e12, clip_gradient_norm=1e9, warmup_epochs=0.0, max_skipped_steps=2))
    assert torch.load(out / "last.pt", weights_only=True)["epoch"] == 0
    assert not (out / "best.safetensors").exists()


def bits(state: TrainState) -> list[torch.Tensor]:
    """Copies of all that a step changes: weights, EMA weights, running statistics, the optimizer's moments."""
    moments = [value for entry in state.optimizer.state.values() for value in entry.values()]
    tensors = [*state.model.state_dict().values(), *state.ema.model.state_dict().values(), *moments]
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("spoilt", ["gradient", "images"])
def test_a_step_whose_gradient_is_not_finite_changes_nothing(
    spoilt: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two forward passes the second is spoilt: by an infinite loss, or already in the running statistics."""
    out = tmp_path / "run"
    run, state = set_up(small_config(scenes, out, nominal_batch_size=8))
    first, second = list(run.loader)[:2]
    state.model.train()
    take_step(run, state, [first, second])
    before, ema_steps = bits(state), state.ema.steps
    losses, passes = state.stats.losses.clone(), state.stats.passes

    with monkeypatch.context() as patch:
        if spoilt == "gradient":
            factors = iter((1.0, float("inf")))

            def losses_of(*arguments: object) -> Losses:
                factor = next(factors)
                return Losses(*(term * factor for term in detection_loss(*arguments)))

            patch.setattr(loss, "detection_loss", losses_of)
        else:
            factors = iter((1.0, float("nan")))
            patch.setattr(step, "scale_pixels", lambda images: scale_pixels(images) * next(factors))
        take_step(run, state, [first, second])

    assert all(torch.equal(one, two) for one, two in zip(before, bits(state), strict=True))
    assert (state.ema.steps, state.step, state.skipped_in_row, state.stats.skipped_steps) == (ema_steps, 2, 1, 1)
    assert torch.equal(state.stats.losses, losses)
    assert state.stats.passes == passes
    (entry,) = [json.loads(line) for line in (out / "skipped_steps.jsonl").read_text().splitlines()]
    indices = dict.fromkeys((*first.image_indices, *second.image_indices))  # of all the mosaics, each once
    names = [run.train_dataset.file_name(index) for index in indices]
    assert entry == {"epoch": 1, "step": 2, "images": names}
    assert f"step 2 skipped: its gradient is not finite; its images: {', '.join(names)}" in capsys.readouterr().out

    take_step(run, state, [first, second])  # and the next one counts again
    assert state.skipped_in_row == 0
    assert not all(torch.equal(one, two) for one, two in zip(before, bits(state), strict=True))


@pytest.mark.slow
def test_skipped_steps_are_counted_and_too_many_in_a_row_stop_the_run(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 images in batches of 4: one bad step in the first epoch, then only bad ones."""
    bad, taken, out = (1, 3, 4, 5), [0], tmp_path / "run"

    def losses_of(*arguments: object) -> Losses:
        taken[0] += 1
        losses = detection_loss(*arguments)
        return Losses(*(term * float("nan") for term in losses)) if taken[0] - 1 in bad else losses

    monkeypatch.setattr(loss, "detection_loss", losses_of)
    with pytest.raises(DetectorError) as refusal:
        train(small_config(scenes, out, epochs=3, max_skipped_steps=3))
    assert re.search(r"3 steps in a row .* up to step 6 in epoch 2: .*--lr below 0\.002", str(refusal.value))
    assert str(out / "skipped_steps.jsonl") in str(refusal.value)
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert (row["step"], row["skipped_steps"]) == (3, 1)
    assert row["box_loss"] >= 0
    entries = [json.loads(line) for line in (out / "skipped_steps.jsonl").read_text().splitlines()]
    assert [(entry["epoch"], entry["step"]) for entry in entries] == [(1, 2), (2, 4), (2, 5), (2, 6)]

    monkeypatch.undo()
    train(replace(small_config(scenes, out, epochs=3, max_skipped_steps=3), resume=str(out)))  # the cause is gone
    entries = [json.loads(line) for line in (out / "skipped_steps.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2]


@pytest.mark.slow
def test_a_run_begun_again_knows_no_skipped_steps_of_the_one_that_failed(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TrainConfig.RANGES, "lr", (0, 1e12))
    out = tmp_path / "run"
    with pytest.raises(DetectorError, match="not finite"):
        train(small_config(scenes, out, lr=1e12, clip_gradient_norm=1e9, warmup_epochs=0.0, max_skipped_steps=1))
    assert (out / "skipped_steps.jsonl").exists()
    train(small_config(scenes, out, epochs=1))
    assert not (out / "skipped_steps.jsonl").exists()


@pytest.mark.parametrize("limit", [*range(130), 1000, 1023])
def test_the_largest_batch_is_exact_to_an_eighth(limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = largest_batch(fits, 1024)
    assert limit - max(limit // 8, 0) <= found <= limit
    assert len(tried) <= 2 * limit.bit_length() + 4
    if limit <= 16:
        assert found == limit


def test_the_largest_batch_stays_within_its_limit() -> None:
    assert largest_batch(lambda _size: True, limit=16) == 16
    assert largest_batch(lambda _size: True, limit=1) == 1
    assert largest_batch(lambda _size: True, limit=100) in range(89, 101)


def no_card(monkeypatch: pytest.MonkeyPatch, fitting: int) -> None:
    """A card that takes `fitting` images of a step, played on the CPU."""

    def try_step(_network: object, _strides: object, _settings: object, _autocast: object, size: int) -> None:
        if size > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(batch_size, "try_step", try_step)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: 50)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (50, 100))


@pytest.mark.parametrize(("fitting", "advice"), [(3, r"3 fit: start again with --batch_size 3"), (0, "not even one")])
def test_out_of_memory_is_told_with_the_largest_batch_size(
    fitting: int, advice: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    no_card(monkeypatch, fitting)
    monkeypatch.setattr(loop, "take_step", too_much)
    with pytest.raises(DetectorError, match=f"^CUDA ran out of memory.*{advice}") as refusal:
        train(small_config(scenes, tmp_path / "run"))
    assert "\n" not in str(refusal.value)


def test_a_batch_fits_only_with_memory_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    no_card(monkeypatch, 100)
    reserved = [0]
    monkeypatch.setattr(batch_size, "try_step", lambda *arguments: reserved.append(arguments[-1]))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: reserved[-1])  # an image takes 1 of 100
    model, autocast = create_model("yolo11n", 1), torch.autocast("cpu", enabled=False)
    few, many = (TrainConfig(train=TrainLoopConfig(nominal_batch_size=images)) for images in (64, 128))
    assert 80 <= largest_batch_size(model, (8, 16, 32), many, autocast) <= 90  # a tenth stays free
    assert largest_batch_size(model, (8, 16, 32), few, autocast) == 64  # no more than a step needs


def test_trying_batches_leaves_the_running_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = batch_size.try_step
    no_card(monkeypatch, 100)
    monkeypatch.setattr(batch_size, "try_step", original)
    model = create_model("yolo11n", 1).train()
    before = [buffer.clone() for buffer in model.buffers()]
    config = TrainConfig(image_size=64, train=TrainLoopConfig(nominal_batch_size=2))
    assert largest_batch_size(model, model.head.strides, config, torch.autocast("cpu", enabled=False)) == 2
    assert all(torch.equal(one, two) for one, two in zip(before, model.buffers(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_batch_of_automatic_size_needs_a_card(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^batch_size: auto measures the memory of a CUDA GPU; on a CPU give a number"
    ):
        set_up(small_config(scenes, tmp_path / "run", batch_size="auto"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_stopping_metric_tells_the_best_epoch_and_when_to_stop(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AP50 is best in epoch 2, AP rises on; patience counts from epoch 2."""
    figures = iter([(0.1, 0.3), (0.2, 0.5), (0.3, 0.4), (0.4, 0.5), (0.5, 0.4)])

    def validate(*_: object) -> dict[str, float]:
        ap, ap50 = next(figures)
        return {**dict.fromkeys(METRICS, 0.0), "AP": ap, "AP50": ap50}

    monkeypatch.setattr(loop, "validate", validate)
    result = train(small_config(scenes, tmp_path / "run", epochs=9, stopping_metric="AP50", patience=2))
    assert (result["epoch"], result["AP"], result["AP50"]) == (2, 0.2, 0.5)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_deterministic_training_changes_no_bit_on_the_cpu(scenes: Path, whole_run: Path, tmp_path: Path) -> None:
    try:
        train(small_config(scenes, tmp_path / "run", epochs=3, deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_weights(whole_run, tmp_path / "run")


@pytest.mark.slow
def test_a_run_can_be_resumed_from_another_folder(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes)
    config = small_config(Path(), tmp_path / "run", epochs=1)
    train(replace(config, paths=PathsConfig(val_json="annotations/instances_test.json", val_images="test")))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["data"] == str(scenes)
    assert written["paths"]["val_images"] == str(scenes / "test")
    assert written["paths"]["train_json"] is None


@pytest.mark.slow
def test_the_last_epochs_are_closing_ones_also_after_a_resume_in_them(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    made = TrainDataset.__getitem__

    def watched(self: TrainDataset, key: SampleKey) -> TrainItem:
        seen.append((key.epoch, key.weak_aug))
        return made(self, key)

    monkeypatch.setattr(TrainDataset, "__getitem__", watched)
    config = replace(small_config(scenes, tmp_path / "run", epochs=4), augment=AugmentConfig(weak_aug_epochs=2))
    finish = loop.finish_epoch

    def interrupted(run: Run, state: TrainState, *rest: Any) -> None:
        finish(run, state, *rest)
        if state.epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_epoch", interrupted)
        with pytest.raises(DetectorError):
            train(config)
    train(replace(config, resume=config.out))
    in_order = list(dict.fromkeys(seen))  # the first plot for the log shows epoch 0, too
    assert in_order == [(0, False), (1, False), (2, True), (3, True)]


@pytest.mark.parametrize(("strength", "least", "most"), [(0.0, 0, 0), (0.5, 5, 25), (1.0, 30, 30)])
def test_transforms_come_less_often_in_the_closing_epochs(scenes: Path, strength: float, least: int, most: int) -> None:
    images = CocoDataset.load(find_split(scenes, "train"))
    plain = AugmentConfig(scale=0, translate=0, fliplr=0, hue=0, saturation=0, brightness=0, weak_aug_strength=strength)
    turned = replace(plain, transforms=[{"VerticalFlip": {"p": 1.0}}])
    one, other = (TrainDataset(images, 64, config, seed=0) for config in (plain, turned))
    keys = [SampleKey(epoch, 3, True) for epoch in range(30)]
    changed = [(one[key].sample.image != other[key].sample.image).any() for key in keys]
    assert least <= sum(changed) <= most


def test_a_sample_follows_from_its_key_alone(scenes: Path) -> None:
    dataset = CocoDataset.load(find_split(scenes, "train"))
    images = TrainDataset(dataset, 64, AugmentConfig(), seed=3)
    first, again, other_epoch = (images[SampleKey(e, 5, False)].sample for e in (0, 0, 1))
    assert first is not None
    assert (first.image == again.image).all()
    assert (first.boxes == again.boxes).all()
    assert (first.image != other_epoch.image).any()
    sampler = EpochSampler(len(dataset), 5, seed=3)
    loaders = [batches_of(train_loader(images, sampler, n, pin_memory=False)) for n in (0, 2)]
    for one, two in zip(*loaders, strict=True):
        assert torch.equal(one.images, two.images)


def test_every_image_comes_once_an_epoch_and_in_another_order_in_the_next() -> None:
    sampler = EpochSampler(23, 5, seed=0)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append([key.image for batch in sampler for key in batch])
    assert sorted(orders[0]) == list(range(23))
    assert orders[0] != orders[1]
    assert len(sampler) == len(list(sampler)) == 5


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    make_dataset(tmp_path, seed=1, train=4, val=3, test=3)
    broken = sorted((tmp_path / "train").glob("*.jpg"))[2]
    broken.write_bytes(broken.read_bytes()[:500])
    images = TrainDataset(CocoDataset.load(find_split(tmp_path, "train")), 64, AugmentConfig(), seed=0)
    batch = collate([images[SampleKey(0, i, True)] for i in range(4)])
    assert len(batch.images) == len(batch.targets) == 3
    assert [str(broken) in line for line in batch.unreadable] == [True]
    mosaic = [images[SampleKey(0, i, False)] for i in range(4)]
    assert all(item.sample is not None for item in mosaic if not item.unreadable)


def test_learning_rate_rises_then_falls_to_its_last_share() -> None:
    for schedule in ("linear", "cosine"):
        config = TrainConfig(lr=1.0, train=TrainLoopConfig(final_lr_factor=0.1, schedule=schedule))
        rates = [learning_rate(i, 100, 10, config) for i in range(100)]
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert all(a >= b for a, b in pairwise(rates[9:]))
        assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(0, 3, 100, config) == 1.0  # a warm-up takes at most a third of the run


def test_norms_and_biases_get_no_weight_decay() -> None:
    model = create_model("yolo11n", 3)
    groups = build_optimizer(model, TrainConfig()).param_groups
    weights, norms, biases = ({id(p) for p in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.0005, 0, 0]
    assert weights == {id(p) for p in model.parameters() if p.ndim == 4}
    assert biases == {id(m.bias) for m in model.modules() if getattr(m, "bias", None) is not None}
    assert norms == {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert len(weights) + len(norms) + len(biases) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_warm_up_of_momentum_and_biases(name: str) -> None:
    loop = TrainLoopConfig(optimizer=name, momentum=0.9, warmup_momentum=0.8, warmup_bias_lr=0.1, schedule="linear")
    config = TrainConfig(lr=0.01, train=loop)
    optimizer = build_optimizer(create_model("yolo11n", 3), config)
    for number in range(100):
        set_lr(optimizer, number, 100, 10, config)
        share = min((number + 1) / 10, 1.0)  # of the warm-up that lies behind
        rate = learning_rate(number, 100, 10, config)
        expected = 0.1 + share * (0.01 - 0.1) if number < 10 else rate
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate, expected])
        for group in optimizer.param_groups:
            momentum = group["momentum"] if name == "sgd" else group["betas"][0]
            assert momentum == pytest.approx(0.8 + share * 0.1)


def test_without_warm_up_values_momentum_stays_and_biases_rise_like_the_rest() -> None:
    config = TrainConfig(train=TrainLoopConfig(optimizer="sgd"))
    optimizer = build_optimizer(create_model("yolo11n", 3), config)
    for number in (0, 3, 50):
        set_lr(optimizer, number, 100, 10, config)
        assert {group["lr"] for group in optimizer.param_groups} == {learning_rate(number, 100, 10, config)}
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_ema_follows_the_formula() -> None:
    model = create_model("yolo11n", 1)
    ema = ModelEma(model, TrainLoopConfig(ema_decay=0.9, ema_ramp_steps=2))
    name = "head.class_branches.0.2.bias"
    start = ema.model.state_dict()[name].clone()
    with torch.no_grad():
        model.get_parameter(name).add_(1.0)
    ema.update(model)
    decay = 0.9 * (1 - torch.exp(torch.tensor(-0.5)))
    assert torch.allclose(ema.model.state_dict()[name], start + (1 - decay))
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_a_run_interrupted_in_its_first_epoch_is_not_overwritten(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(scenes, tmp_path / "run", checkpoint_minutes=0.0)
    original, taken = loop.take_step, []

    def interrupted(*arguments: object) -> object:
        if taken:
            raise KeyboardInterrupt
        taken.append(original(*arguments))
        return taken[0]

    monkeypatch.setattr(loop, "take_step", interrupted)
    with pytest.raises(DetectorError, match="interrupted"):
        train(config)
    with pytest.raises(DetectorError, match=r"already holds a run; --resume"):
        train(config)


def test_ray_is_started_by_its_own_function(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_on_ray"):
        train(small_config(scenes, tmp_path / "run", engine="ray"))


def test_a_cpu_computes_in_bfloat16_if_asked_to(scenes: Path, tmp_path: Path) -> None:
    run, _ = set_up(small_config(scenes, tmp_path / "run", precision="bf16"))
    with run.autocast:
        raw = run.network(torch.rand(2, 3, 64, 64))
    assert raw.boxes.dtype == raw.scores.dtype == torch.bfloat16
    run, _ = set_up(small_config(scenes, tmp_path / "other"))
    with run.autocast:
        assert run.network(torch.rand(2, 3, 64, 64)).boxes.dtype == torch.float32
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU; use auto, fp32 or bf16 on cpu"):
        set_up(small_config(scenes, tmp_path / "third", precision="fp16"))
