"""Tiles in training: every object is whole in a window, windows are cut out exactly and decoded once, runs resume exactly."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_run import small_config

import detector.data.cached_images as cached_images
import detector.training.loop as loop
from detector.cli import main
from detector.config import AugmentConfig, TrainConfig, TrainLoopConfig
from detector.data.cache import ImageCache
from detector.data.cached_images import CachedImages
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.load import load_split
from detector.data.tiles import (
    Window,
    labels_in,
    shows,
    training_views,
    training_windows,
    view_factors,
    whole_images,
    windows,
    within,
)
from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.images.read import read_image
from detector.reporting.run_record import read_run
from detector.training.dataset import augmented_batch, build_train_dataset

SIDE, OVERLAP = 100, 0.2


@st.composite
def annotated(draw: st.DrawFn) -> tuple[tuple[int, int], np.ndarray]:
    """A size of an image and boxes in it, of eighths of a pixel, which float32 holds exactly."""
    size = draw(st.integers(20, 400)), draw(st.integers(20, 400))
    boxes = []
    for _ in range(draw(st.integers(0, 8))):
        ends = [sorted(draw(st.lists(st.integers(0, 8 * side), min_size=2, max_size=2, unique=True))) for side in size]
        boxes.append([ends[0][0] / 8, ends[1][0] / 8, ends[0][1] / 8, ends[1][1] / 8])
    return size, np.array(boxes, np.float32).reshape(-1, 4)


@settings(max_examples=300, deadline=None)
@given(annotated(), st.floats(0, 0.9))
def test_every_object_that_fits_is_whole_in_a_window(image: tuple[tuple[int, int], np.ndarray], overlap: float) -> None:
    size, boxes = image
    places, grid = training_windows(size, boxes, SIDE, overlap), windows(*size, SIDE, overlap)
    assert places[: len(grid)] == grid
    assert len(set(places)) == len(places)
    whole = Window(0, 0, *size)
    for place in places:
        assert place == whole or place.size == grid[0].size
        assert within(np.array([place], np.float32), whole)[0].tolist() == [list(place)]
    wide, high = grid[0].size
    for box in boxes:
        seen = [place for place in places if shows(place, box[None]).all()]
        fits = np.ceil(box[2]) - np.floor(box[0]) <= wide and np.ceil(box[3]) - np.floor(box[1]) <= high
        assert seen
        if fits:
            assert any(place.size == (wide, high) for place in seen)
    longest = (boxes[:, 2:] - boxes[:, :2]).max(initial=0)
    if len(grid) > 1:
        assert (whole in places) == (longest > SIDE * overlap)
        assert len(places) <= len(grid) + len(boxes) + 1
    else:
        assert places == grid


def test_a_window_more_has_its_object_in_the_middle() -> None:
    boxes = np.array([[75, 80, 125, 130], [85, 60, 110, 95], [300, 10, 310, 20]], np.float32)
    places = training_windows((400, 200), boxes, SIDE, OVERLAP)
    grid = windows(400, 200, SIDE, OVERLAP)
    assert places == [*grid, Window(50, 55, 150, 155), Window(0, 0, 400, 200)]  # which shows the second, too


def test_parts_are_kept_by_the_fraction_that_is_seen() -> None:
    boxes = np.array([[90, 0, 110, 10], [99, 0, 110, 10], [0, 0, 20, 20], [150, 0, 160, 9]], np.float32)
    parts, kept = within(boxes, Window(10, 5, 100, 95))
    assert kept.tolist() == [0, 2]  # a quarter and three eighths; of the second less than a tenth is left
    assert parts.tolist() == [[80, 0, 90, 5], [0, 0, 10, 15]]
    assert parts.dtype == np.float32


def dataset_of(root: Path, sizes: list[tuple[int, int]], boxes: list[list[list[float]]]) -> CocoDataset:
    """PNG images of noise with boxes (xyxy) of one class."""
    rng = np.random.default_rng(0)
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "a"}]}
    for number, ((width, height), of_image) in enumerate(zip(sizes, boxes, strict=True), start=1):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / "train" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for left, top, right, bottom in of_image:
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": 3, "iscrowd": 0}
            entry |= {"bbox": [left, top, right - left, bottom - top], "area": 1.0}
            entry["segmentation"] = [[left, top, right, top, (left + right) / 2, bottom]]
            content["annotations"].append(entry)
    content["annotations"][-1]["iscrowd"] = 1
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return load_split(str(root), "train", polygons=True)


BOXES = [[[10.0, 10, 30, 40], [70, 20, 130, 50]], [[5.0, 5, 20, 20]], [], [[20.0, 20, 40, 40], [180, 50, 240, 120]]]
SIZES = [(230, 120), (60, 50), (250, 100), (260, 130)]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    return dataset_of(tmp_path_factory.mktemp("noise"), SIZES, BOXES)


@pytest.mark.parametrize("cache_gb", [0.0, 0.1, 0.0002])
def test_windows_are_cut_out_of_the_image_with_what_they_show(noise: CocoDataset, cache_gb: float) -> None:
    views = training_views(noise, SIDE, OVERLAP)
    images = CachedImages(noise, 1000, cache_gb, views, outlines=True)
    assert len(images) == len(views) > 12
    for _ in range(2):
        for index, (image, left, top, right, bottom) in enumerate(views.tolist()):
            sample, whole = images.read(index), read_image(noise.path(image), noise.size(image))
            assert images.view(index) == (image, (left, top, right, bottom))
            assert (sample.image == whole[top:bottom, left:right]).all()
            window = Window(left, top, right, bottom)
            boxes, kept = within(noise.boxes(image), window)
            assert sample.boxes.tolist() == boxes.tolist()
            assert sample.labels.tolist() == noise.labels(image)[kept].tolist()
            assert sample.crowd_boxes.tolist() == within(noise.crowd_boxes(image), window, 0)[0].tolist()
            for place, object_index in enumerate(kept.tolist()):
                outline = sample.outlines.chosen(np.array([place])).points + np.array((left, top))
                uncut = bool(shows(window, noise.boxes(image)[[object_index]])[0])
                assert len(outline) == (3 if uncut else 4)  # the polygon, or the corners of the part
                assert outline.min(axis=0).tolist() == (boxes[place, :2] + (left, top)).tolist()
                assert outline.max(axis=0).tolist() == (boxes[place, 2:] + (left, top)).tolist()


def test_windows_larger_than_the_input_are_shrunk_with_their_boxes(noise: CocoDataset) -> None:
    views = training_views(noise, SIDE, OVERLAP)
    full, half = (CachedImages(noise, longest, 0.1, views) for longest in (1000, 50))
    for index in range(len(views)):
        one, two = full.read(index), half.read(index)
        assert max(two.image.shape) <= 50
        ratio = two.image.shape[1] / one.image.shape[1], two.image.shape[0] / one.image.shape[0]
        assert np.abs(two.boxes - one.boxes * (ratio * 2)).max(initial=0) < 1e-4


def test_a_file_is_decoded_once_for_all_its_windows(noise: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()

    def counted(path: Path, size: tuple[int, int]) -> np.ndarray:
        decoded[path.name] += 1
        return read_image(path, size)

    monkeypatch.setattr(cached_images, "read_image", counted)
    images = CachedImages(noise, 1000, 0.1, training_views(noise, SIDE, OVERLAP))
    assert "windows of the training images" in images.message
    for index in [*np.random.default_rng(0).permutation(len(images)).tolist(), *range(len(images))]:
        images.read(index)
    assert decoded == {f"{number}.png": 1 for number in range(1, len(SIZES) + 1)}


def test_windows_of_a_file_that_changed_after_it_was_decoded_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    cache, old, new = (
        ImageCache(np.array([[4, 3]] * 3), 2**20),
        np.zeros((3, 4, 3), np.uint8),
        np.ones((3, 4, 3), np.uint8),
    )

    def beside() -> list[tuple[int, np.ndarray]]:
        path.write_text("newer")
        return [(1, old), (2, old)]

    assert (cache.read(0, path, lambda: old, beside) == old).all()
    assert all((cache.read(index, path, lambda: new) == new).all() for index in (0, 1, 2))


def test_empty_windows_come_as_often_as_those_with_objects() -> None:
    views = np.array([(0, left, 0, left + 10, 10) for left in range(8)] + [(1, 0, 0, 10, 10)])
    labels = [np.zeros(int(index < 2), np.int64) for index in range(9)]
    assert view_factors(views, labels).tolist() == [1, 1, *[2 / 6] * 6, 1]  # an image in one piece always comes
    assert view_factors(views, [np.zeros(1, np.int64)] * 9) is None
    assert view_factors(views, [np.zeros(0, np.int64)] * 9).tolist() == [*[1 / 8] * 8, 1]


def tiled_config(**settings: Any) -> TrainConfig:
    loop_settings = {"tiles": SIDE, "overlap": OVERLAP, **settings}
    return TrainConfig(image_size=64, batch_size=4, train=TrainLoopConfig(**loop_settings))


def test_an_epoch_shows_every_window_with_an_object(noise: CocoDataset) -> None:
    views = training_views(noise, SIDE, OVERLAP)
    full = {index for index, labels in enumerate(labels_in(noise, views)) if len(labels)}
    dataset, sampler = build_train_dataset(tiled_config(), noise)
    seen = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = [key for batch in sampler for key in batch]
        seen.append({key.image for key in keys})
        assert full <= seen[-1]
        assert len(full) < len(keys) < len(views)
        assert all(set(dataset[key].sources) <= set(range(len(noise))) for key in keys[:3])
    assert len({frozenset(each) for each in seen}) > 1  # empty windows are drawn anew


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_images_no_larger_than_a_window_are_trained_on_as_without_tiles(noise: CocoDataset, threshold: float) -> None:
    """To the bit: the same keys, pixels and boxes."""
    one, two = (
        build_train_dataset(tiled_config(tiles=tiles, repeat_threshold=threshold), noise, 0.1) for tiles in (None, 260)
    )
    for epoch in range(2):
        one[1].set_epoch(epoch)
        two[1].set_epoch(epoch)
        batches = list(one[1])
        assert batches == list(two[1])
        for key in batches[0]:
            first, second = one[0][key].sample, two[0][key].sample
            assert (first.image == second.image).all()
            assert first.boxes.tolist() == second.boxes.tolist()


def test_views_of_whole_images_are_the_images(noise: CocoDataset) -> None:
    assert whole_images(noise).tolist() == [[index, 0, 0, *size] for index, size in enumerate(SIZES)]


# ---- trainings

TILES = {"tiles": 160, "overlap": 0.25}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=3, val=3, test=3)
    return root


@pytest.mark.slow
def test_validation_looks_through_the_tiles_of_evaluate(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same detections in each image, up to the rounding of batches, which is avoided here."""
    monkeypatch.setattr(loop.Detector, "BATCH", 1)
    config = small_config(scenes, tmp_path / "run", epochs=1, image_size=64, **TILES)
    found: list[Any] = []
    score = loop.score
    monkeypatch.setattr(
        loop, "score", lambda shards, *rest, **options: found.extend(shards) or score(shards, *rest, **options)
    )
    loop.train(config)
    arguments = ["--data", str(scenes), "--weights", str(tmp_path / "run" / "last.safetensors"), "--out", str(tmp_path)]
    assert (
        main(["evaluate", *arguments, "--tiles", "160", "--overlap", "0.25", "--device", "cpu", "--workers", "0"]) == 0
    )
    results = json.loads((tmp_path / "detections.json").read_text())
    dataset = CocoDataset.load(find_split(scenes, "val"))
    assert sum(map(len, found[0].detections.values())) == len(results) > 0
    for index, detections in found[0].detections.items():
        scores = [entry["score"] for entry in results if entry["image_id"] == dataset.image_id(index)]
        assert scores == pytest.approx(detections.scores.tolist(), abs=1e-4)


@pytest.mark.slow
def test_a_run_with_tiles_resumes_exactly(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the middle of its second epoch; with other tiles it is refused."""
    config, out = small_config(scenes, tmp_path / "run", cache_gb=0.1, **TILES), tmp_path / "run"
    per_epoch = len(build_train_dataset(config, load_split(str(scenes), "train"))[1])
    assert per_epoch > 3
    loop.train(config)
    weights = (out / "last.safetensors").read_bytes()
    out.rename(tmp_path / "whole")
    take_step = loop.take_step

    def asked_to_stop(run: Any, state: Any, batches: Any) -> Any:
        if state.step == per_epoch + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(run, state, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", asked_to_stop)
        with pytest.raises(DetectorError, match=f"after 1 of 2 epochs and 2 of {per_epoch} batches"):
            loop.train(config)
    capsys.readouterr()
    assert main(["train", "--resume", str(out), "--train.overlap", "0.5"]) == 2
    assert "train.overlap was 0.25, is 0.5" in capsys.readouterr().err
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "last.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_report_and_preview_show_windows(scenes: Path, tmp_path: Path) -> None:
    config = small_config(scenes, tmp_path / "run", epochs=1, **TILES)
    loop.train(config)
    assert main(["report", str(tmp_path / "run"), "--device", "cpu"]) == 0
    record = read_run(tmp_path / "run", None)
    assert record.config.train.tiles == 160
    batch = augmented_batch(config, record.train_dataset, 0, 32)
    assert len(batch.images) == 4 < len(training_views(record.train_dataset, 160, 0.25))
    assert torch.equal(batch.images, augmented_batch(config, record.train_dataset, 0, 32).images)
    assert AugmentConfig() == config.augment
