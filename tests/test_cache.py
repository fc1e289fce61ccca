"""The image cache changes nothing but the time: same bits, never a stale or half-written image, never too much memory."""

import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from cache_reader import SHAPE, content, read, read_all
from PIL import Image

import detector.utils.memory as memory_module
from detector.config import AugmentConfig
from detector.data.cache import ImageCache, starts
from detector.data.cached_images import CachedImages, shrunk_size
from detector.data.coco import CocoDataset
from detector.data.layouts import find_split
from detector.data.loader import TrainDataset, collate, train_loader
from detector.data.mosaic import compose, longest_source_side, place_single
from detector.data.sampler import EpochSampler, SampleKey
from detector.demo.scenes import make_dataset
from detector.images.input_size import InputSize
from detector.images.read import UnreadableImageError, read_image
from detector.utils.memory import free_memory


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("scenes")
    make_dataset(root, seed=1, train=8, val=3, test=3)
    return CocoDataset.load(find_split(root, "train"))


def files(folder: Path, count: int) -> list[Path]:
    """Files whose pixels a test decodes as what `content` says of the number in them."""
    paths = [folder / f"{i}.txt" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_text(str(i))
    return paths


def cache_for(images: int, room_for: int) -> ImageCache:
    sizes = np.array([SHAPE[1::-1]] * images)
    return ImageCache(sizes, int(starts(sizes)[room_for]))


def cache_size(images: int, filled: int) -> int:
    """Bytes of a cache for that many images with `filled` of them in it."""
    return int(starts(np.array([SHAPE[1::-1]] * images))[filled])


def memory(cache: ImageCache) -> int:
    """Bytes that the cache really takes, of the kernel's pages."""
    return os.fstat(cache._descriptor).st_blocks * 512


@pytest.mark.slow
def test_batches_are_the_same_with_and_without_cache_in_any_number_of_workers(scenes: CocoDataset) -> None:
    assert max(scenes.size(0)) > longest_source_side(InputSize(64, 64), AugmentConfig())  # they are shrunk
    reference: list[torch.Tensor] = []
    for cache_gb, workers in ((0.0, 0), (1.0, 0), (1.0, 2), (0.0001, 2)):
        images = TrainDataset(scenes, 64, AugmentConfig(), 3, cache_gb=cache_gb)
        sampler = EpochSampler(len(scenes), 3, seed=3)
        loader = train_loader(images, sampler, workers, pin_memory=False)
        batches = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            batches += list(loader)
        found = [batch.images for batch in batches] + [target.boxes for batch in batches for target in batch.targets]
        reference = reference or found
        assert all(torch.equal(one, two) for one, two in zip(reference, found, strict=True))


def test_a_file_is_decoded_once(tmp_path: Path) -> None:
    paths, cache, decoded = files(tmp_path, 3), cache_for(3, room_for=3), []
    for _ in range(3):
        for i, path in enumerate(paths):
            assert (read(cache, i, path, decoded) == content(i)).all()
    assert decoded == [0, 1, 2]


def test_what_comes_from_memory_cannot_be_written_to(tmp_path: Path) -> None:
    (path,), cache = files(tmp_path, 1), cache_for(1, room_for=1)
    read(cache, 0, path)
    with pytest.raises(ValueError, match="read-only"):
        read(cache, 0, path)[0] = 0


def test_a_changed_file_is_never_served_stale(tmp_path: Path) -> None:
    (path,), cache = files(tmp_path, 1), cache_for(1, room_for=1)
    read(cache, 0, path)
    before = path.stat()
    path.write_text("7")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    assert path.stat().st_size == before.st_size
    assert (read(cache, 0, path) == content(7)).all()
    assert (read(cache, 0, path) == content(7)).all()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(cache, 0, path)


def test_the_budget_is_kept_and_nothing_grows_after_the_first_pass(tmp_path: Path) -> None:
    paths, cache, decoded = files(tmp_path, 40), cache_for(40, room_for=25), []
    taken = []
    assert cache.room == 25
    for _ in range(3):
        assert all((read(cache, i, path, decoded) == content(i)).all() for i, path in enumerate(paths))
        taken.append(memory(cache))
    assert decoded == [*range(40), *range(25, 40), *range(25, 40)]
    assert taken[0] == taken[1] == taken[2] == cache_size(40, 25)


def test_memory_is_taken_as_images_come_in(tmp_path: Path) -> None:
    paths, cache = files(tmp_path, 40), cache_for(40, room_for=40)
    assert memory(cache) == cache_size(40, 0)
    read(cache, 7, paths[7])
    assert memory(cache) == cache_size(40, 1)


def test_the_first_images_that_fit_have_a_place() -> None:
    sizes = np.array([(100, 80), (1000, 500), (3, 2), (40, 40)])
    *places, end = starts(sizes).tolist()
    capacities = [0, places[0], places[1] - 1, *places[1:], end - 1, end, 10 * end]
    assert [ImageCache(sizes, capacity).room for capacity in capacities] == [0, 0, 0, 1, 2, 3, 3, 4, 4]


def test_a_system_that_does_not_say_what_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_memory() < sys.maxsize or sys.platform != "linux"
    monkeypatch.setattr(Path, "read_text", mock.Mock(side_effect=FileNotFoundError))
    assert free_memory() == sys.maxsize


def test_too_little_memory_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,), cache, decoded = files(tmp_path, 1), cache_for(1, room_for=1), []

    def no_memory(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_memory)
    assert all((read(cache, 0, path, decoded) == content(0)).all() for _ in range(2))
    assert decoded == [0, 0]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_share_what_each_has_decoded(method: str, tmp_path: Path) -> None:
    paths, cache = files(tmp_path, 30), cache_for(30, room_for=30)
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=read_all, args=(cache, paths, seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    decoded: list[int] = []
    assert all((read(cache, i, path, decoded) == content(i)).all() for i, path in enumerate(paths))
    assert decoded == []
    assert memory(cache) == cache_size(30, 30)


def before_writing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Has `happens` called when the next image has been decoded and is about to be written."""
    reserve = os.posix_fallocate

    def interrupted(*arguments: int) -> None:
        monkeypatch.setattr(os, "posix_fallocate", reserve)
        happens()
        reserve(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", interrupted)


def test_two_that_write_one_image_do_not_harm_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,), cache, decoded = files(tmp_path, 1), cache_for(1, room_for=1), []
    before_writing(monkeypatch, lambda: read(cache, 0, path, decoded))
    assert all((read(cache, 0, path, decoded) == content(0)).all() for _ in range(3))
    assert decoded == [0, 0]


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_file_that_changes_while_it_is_decoded_is_never_served_stale(overtaken: bool, tmp_path: Path) -> None:
    """overtaken: another process decodes the new file and writes it first."""
    (path,), cache = files(tmp_path, 1), cache_for(1, room_for=1)

    def decode() -> np.ndarray:
        path.write_text("71")
        if overtaken:
            read(cache, 0, path)
        return content(0)

    assert (cache.read(0, path, decode) == content(0)).all()
    assert all((read(cache, 0, path) == content(71)).all() for _ in range(3))


def test_a_file_that_changes_while_it_is_written_is_never_served_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow writer of the old pixels comes after the fast reader of the new file."""
    (path,), cache, later = files(tmp_path, 1), cache_for(1, room_for=1), []

    def change_and_read() -> None:
        path.write_text("71")
        later.append(read(cache, 0, path))

    before_writing(monkeypatch, change_and_read)
    assert (read(cache, 0, path) == content(0)).all()
    assert all((image == content(71)).all() for image in [*later, read(cache, 0, path), read(cache, 0, path)])
    assert len(later) == 1


def test_an_image_in_use_survives_a_writer_of_the_old_file(tmp_path: Path) -> None:
    """The slow writer has seen a free record, and takes it only when the new file's pixels are there."""
    (path,), cache, in_use = files(tmp_path, 1), cache_for(1, room_for=1), []
    records = cache._records

    class Slow(np.ndarray):
        def __setitem__(self, key: int, value: int) -> None:
            if not in_use:
                cache._records = records
                path.write_text("71")
                read(cache, 0, path)
                in_use.append(read(cache, 0, path))
            super().__setitem__(key, value)

    cache._records = records.view(Slow)
    read(cache, 0, path)
    assert not in_use[0].flags.writeable  # it came from memory
    assert all((image == content(71)).all() for image in [*in_use, read(cache, 0, path)])


def test_a_process_that_dies_while_writing_hinders_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,), cache, decoded = files(tmp_path, 1), cache_for(1, room_for=1), []
    with monkeypatch.context() as patch:
        before_writing(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        process = multiprocessing.get_context("fork").Process(target=read, args=(cache, 0, path))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert all((read(cache, 0, path, decoded) == content(0)).all() for _ in range(2))
    assert decoded == [0]


def dataset_with(root: Path, images: list[np.ndarray], boxes: list[tuple[int, int, int, int]]) -> CocoDataset:
    """One object each, xywh."""
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "train" / f"{i}.png")
    entries = [
        {"id": i, "file_name": f"{i}.png", "width": image.shape[1], "height": image.shape[0]}
        for i, image in enumerate(images)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "square"}]
    text = json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    (root / "annotations" / "instances_train.json").write_text(text)
    return CocoDataset.load(find_split(root, "train"))


@pytest.mark.parametrize("size", [(799, 601), (601, 799), (1000, 37), (150, 90)])
def test_boxes_frame_the_same_in_the_shrunk_image(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x, y, w, h = width // 3, height // 3, width // 2, height // 3
    image[y : y + h, x : x + w] = 255
    sources = CachedImages(dataset_with(tmp_path, [image], [(x, y, w, h)]), 192)
    sample = sources.read(0)
    assert sample.image.shape[1::-1] == sources.size(0) == shrunk_size(size, 192)
    assert max(sources.size(0)) == min(max(size), 192)
    left, top, right, bottom = sample.boxes[0].tolist()
    bright = sample.image[..., 0].astype(float) / 255
    # each edge lies where the sums of what is bright put it: exact for averages over areas
    assert bright.max(axis=0).sum() == pytest.approx(right - left, abs=0.02)
    assert bright.max(axis=1).sum() == pytest.approx(bottom - top, abs=0.02)
    columns, rows = np.arange(sources.size(0)[0]) + 0.5, np.arange(sources.size(0)[1]) + 0.5
    assert (bright.sum(axis=0) * columns).sum() / bright.sum() == pytest.approx((left + right) / 2, abs=0.02)
    assert (bright.sum(axis=1) * rows).sum() / bright.sum() == pytest.approx((top + bottom) / 2, abs=0.02)


def test_shrinking_first_loses_nothing_that_a_training_image_shows(tmp_path: Path) -> None:
    """Against the warp of the whole image, at the largest factor."""
    config = AugmentConfig(scale=0.5)
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((800, 600)))
    images = dataset_with(tmp_path, [image], [(10, 10, 700, 500)])

    whole, shrunk = (
        CachedImages(images, longest).read(0) for longest in (800, longest_source_side(InputSize(128, 128), config))
    )
    results = []
    for sample in (whole, shrunk):
        placement = place_single(
            (sample.image.shape[1], sample.image.shape[0]), InputSize(128, 128), 1 + config.scale, (0.0, 0.0)
        )
        results.append(compose([sample], [placement], InputSize(128, 128)).drawn())
    assert max(shrunk.image.shape) == 192
    assert np.abs(results[0].boxes - results[1].boxes).max() < 1e-3
    assert np.abs(results[0].image.astype(int) - results[1].image).mean() < 4


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_an_unreadable_image_is_reported_each_time(cache_gb: float, tmp_path: Path) -> None:
    make_dataset(tmp_path, seed=1, train=4, val=3, test=3)
    broken = sorted((tmp_path / "train").glob("*.jpg"))[2]
    broken.write_bytes(broken.read_bytes()[:500])
    dataset = CocoDataset.load(find_split(tmp_path, "train"))
    images = TrainDataset(dataset, 64, AugmentConfig(), 0, cache_gb=cache_gb)
    for epoch in range(3):
        batch = collate([images[SampleKey(epoch, i, True)] for i in range(4)])
        assert len(batch.images) == 3
        assert [str(broken) in line for line in batch.unreadable] == [True]
    with pytest.raises(UnreadableImageError):
        images.images.read(2)


def test_an_image_of_another_size_than_the_cached_one_is_refused(tmp_path: Path) -> None:
    images = dataset_with(tmp_path, [np.zeros((20, 30, 3), np.uint8)], [(1, 1, 5, 5)])
    sources = CachedImages(images, 100, 1.0)
    assert sources.read(0).image.shape == (20, 30, 3)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(images.path(0))
    with pytest.raises(UnreadableImageError, match="40x30"):
        sources.read(0)


@pytest.mark.parametrize(
    ("cache_gb", "free", "expected"),
    [
        (0.0, None, ""),
        (1.0, None, "image cache: room for all 8 training images (0.00 GiB)"),
        (0.0001, None, "(0.00 GiB); all need --train.cache_gb 0.01"),
        (1.0, 200_000, "half of the memory that is free"),
        (1.0, 100, "image cache: none, too little memory is free"),
    ],
)
def test_one_line_tells_how_many_images_fit(
    cache_gb: float,
    free: int | None,
    expected: str,
    scenes: CocoDataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if free is not None:
        for name, value in (("max", free + 1000), ("current", 1000)):
            (tmp_path / name).write_text(f"{value}\n")
        limits = ((str(tmp_path / "max"), str(tmp_path / "current")),)
        monkeypatch.setattr(memory_module, "CGROUP_FILES", limits)
    sources = CachedImages(scenes, 96, cache_gb)
    assert expected in sources.message
    assert "\n" not in sources.message
    first, second = ([sources.read(i).image for i in range(len(scenes))] for _ in range(2))
    assert all((one == two).all() for one, two in zip(first, second, strict=True))
    assert first[0].shape[1::-1] == shrunk_size(scenes.size(0), 96)
    told = re.search(r"room for (?:all )?(\d+)", sources.message)
    assert sum(not image.flags.writeable for image in second) == (int(told[1]) if told else 0)


def test_an_image_that_need_not_shrink_is_the_file_s(scenes: CocoDataset) -> None:
    sources = CachedImages(scenes, max(scenes.size(1)), 1.0)
    reads: list[Callable[[], np.ndarray]] = [lambda: sources.read(1).image] * 2
    assert all((each() == read_image(scenes.path(1))).all() for each in reads)
    assert (sources.read(1).boxes == scenes.boxes(1)).all()
