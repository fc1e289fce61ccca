"""Images from videos, URLs and memory one after the other: none lost, few in memory, and what is written of them."""

import csv
import http.server
import io
import json
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from drawn_video import RATE, Clock, as_matroska, draw_video, properties
from lively_model import lively_model
from PIL import Image
from torch import Tensor

from detector.cli import main
from detector.demo.scenes import make_dataset
from detector.errors import DataError
from detector.formats.runtime import Runtime, Selection
from detector.images.read import image_from_bytes, read_image
from detector.inference import streaming, video
from detector.inference.detector import Detector
from detector.inference.sinks import csv_writer, json_writer
from detector.inference.sources import Source
from detector.inference.streaming import AHEAD, stream
from detector.inference.video import read_video
from detector.models.postprocess import NmsResult
from detector.structures import Categories, Detections
from detector.weights.files import WeightsInfo, save_weights

CATEGORIES = Categories((3, 7, 90), ("cat", "dog/puppy", "cow"))
FRAMES = 25


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(lively_model(len(CATEGORIES)), CATEGORIES, 64, device="cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, lively_model(len(CATEGORIES)), WeightsInfo("yolo11n", CATEGORIES, 64, {}, {}, "CC0-1.0"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images a.jpg, c.jpg and d.jpg, and a video b.mp4."""
    root = tmp_path_factory.mktemp("sources")
    make_dataset(root / "data", seed=1, train=3, val=3, test=3)
    for path, name in zip(sorted((root / "data" / "val").glob("*.jpg")), "acd", strict=True):
        path.rename(root / f"{name}.jpg")
    draw_video(root / "b.mp4", FRAMES)
    for path in root.glob("data/**/*.jpg"):
        path.unlink()
    return root


def run(arguments: list[str], weights: Path, out: Path) -> int:
    return main(["infer", *arguments, "--weights", str(weights), "--out", str(out), "--device", "cpu"])


def same(first: Detections, second: Detections) -> bool:
    return torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)


# stream


@pytest.mark.usefixtures("video_backend")
def test_every_image_and_frame_comes_in_order_with_what_the_detector_finds(detector: Detector, folder: Path) -> None:
    seen = list(stream(detector, [str(folder / "a.jpg"), str(folder / "b.mp4"), str(folder / "c.jpg")]))
    names = [Path(one.source.name).name for one in seen]
    assert names == ["a.jpg", *["b.mp4"] * FRAMES, "c.jpg"]
    assert [one.frame for one in seen] == [0, *range(FRAMES), 0]
    assert [one.time for one in seen] == pytest.approx([0, *(number / RATE for number in range(FRAMES)), 0])
    left = [one.image[:, :40].mean() for one in seen[1:-1]]
    assert all(later > earlier + 1 for earlier, later in pairwise(left))
    for one in (seen[0], seen[9], seen[-1]):
        assert same(one.detections, detector(one.image))


class MeanRuntime(Runtime):
    """Finds one box per input: the whole of it, labelled with its sum of pixels. The answer cannot depend on the batch."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def detect(self, inputs: Tensor, selection: Selection) -> list[NmsResult]:
        del selection
        self.batch_sizes.append(len(inputs))
        box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
        return [NmsResult(box, torch.ones(1), image.sum(dtype=torch.int64)[None] % len(CATEGORIES)) for image in inputs]


def test_batches_lose_nothing(folder: Path) -> None:
    runtime = MeanRuntime()
    detector = Detector(runtime, CATEGORIES, 64)
    expected = [one.detections.labels.item() for one in stream(detector, [str(folder)])]
    assert len(expected) == FRAMES + 3
    assert set(expected) == {0, 1, 2}
    assert set(runtime.batch_sizes) == {1}
    runtime.batch_sizes.clear()
    detector.batch = 4
    assert [one.detections.labels.item() for one in stream(detector, [str(folder)])] == expected
    assert sum(runtime.batch_sizes) == FRAMES + 3
    assert max(runtime.batch_sizes) == 4


def test_only_a_few_images_are_read_ahead(detector: Detector) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield np.full((64, 64, 3), taken % 255, np.uint8)

    seen = stream(detector, endless())
    for number in range(1, 20):
        image = next(seen).image
        assert image[0, 0, 0] == number
        assert taken <= number + AHEAD + 2  # one in the thread's hands, one in ours
    seen.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "reads images"]


def test_a_live_source_may_lose_images_but_not_wait(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Source("camera:0", "video", live=True)
    image = np.zeros((64, 64, 3), np.uint8)
    read = threading.Event()

    def frames(*_arguments: Any) -> Iterator[tuple[float, np.ndarray]]:
        for number in range(100):
            yield number / 25, image
        read.set()

    monkeypatch.setattr(streaming, "_read", frames)
    seen = stream(detector, [camera])
    first = next(seen)
    assert read.wait(60)  # though nobody takes the others
    rest = [one.frame for one in seen]
    assert first.frame == 0
    assert len(rest) <= AHEAD
    assert rest == sorted(rest)


def test_images_in_memory(detector: Detector, folder: Path) -> None:
    path = folder / "a.jpg"
    array = read_image(path)
    kinds: list[Any] = [path.read_bytes(), array, Image.open(path), torch.from_numpy(array).permute(2, 0, 1)]
    seen = list(stream(detector, kinds))
    assert [one.source.name for one in seen] == [f"image {number}" for number in range(4)]
    assert all(same(one.detections, detector(path)) for one in seen)


def test_one_source_needs_no_list(detector: Detector, folder: Path) -> None:
    path = folder / "a.jpg"
    for one in (str(path), path, Source(str(path), "image"), path.read_bytes(), read_image(path)):
        (result,) = stream(detector, one)
        assert same(result.detections, detector(path))
    with tempfile.NamedTemporaryFile() as file:
        file.write(path.read_bytes())
        file.seek(0)
        (result,) = stream(detector, file)
        assert same(result.detections, detector(path))
    assert len(list(stream(detector, {path: 0, folder / "c.jpg": 0}.keys()))) == 2


def test_bytes_that_are_no_image(folder: Path) -> None:
    content = (folder / "a.jpg").read_bytes()
    assert np.array_equal(image_from_bytes(content), read_image(folder / "a.jpg"))
    for broken, words in ((b"", "no image"), (b"text", "no image"), (content[:-300], "can't be read")):
        with pytest.raises(DataError, match=words):
            image_from_bytes(broken)


def test_what_cannot_be_read_is_passed_on_in_its_place_or_raised(
    detector: Detector, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:500])
    sources = [str(folder / "a.jpg"), str(tmp_path / "broken.jpg"), b"nothing", str(folder / "c.jpg")]
    order: list[str] = []
    for one in stream(detector, sources, lambda source, error: order.append(f"{source.name}: {error}")):
        order.append(one.source.name)
    assert [Path(text.split(":")[0]).name for text in order] == ["a.jpg", "broken.jpg", "image 2", "c.jpg"]
    with pytest.raises(DataError, match=r"broken\.jpg"):
        list(stream(detector, sources))


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_generator_raises_is_not_swallowed_by_the_thread(detector: Detector, kind: type[BaseException]) -> None:
    def images() -> Iterator[np.ndarray]:
        yield np.zeros((64, 64, 3), np.uint8)
        raise kind

    with pytest.raises(kind):
        list(stream(detector, images()))


# videos


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 64), (97, 63)])
def test_an_annotated_video_has_the_frames_rate_and_size_of_the_original(
    weights: Path, tmp_path: Path, size: tuple[int, int], video_backend: str
) -> None:
    video = draw_video(tmp_path / "film.mp4", FRAMES, size)
    assert properties(video) == (RATE, *size, FRAMES)
    assert run([str(video)], weights, tmp_path / "out") == 0
    written = size if video_backend == "av" else (96, size[1] // 2 * 2)  # OpenCV takes even sides only
    assert properties(tmp_path / "out" / "film.mp4") == (RATE, *written, FRAMES)
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {entry["frame"] for entry in entries} == set(range(FRAMES))
    for entry in entries:
        assert entry["time"] == pytest.approx(entry["frame"] / RATE)
        assert entry["image_id"] == entry["frame"] + 1


@pytest.mark.slow
@pytest.mark.usefixtures("video_backend")
def test_a_video_that_is_cut_off_is_used_up_to_there_and_named(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = as_matroska(folder / "b.mp4", tmp_path / "b.mkv")
    assert run([str(whole)], weights, tmp_path / "whole") == 0
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "c.jpg").write_bytes((folder / "a.jpg").read_bytes())
    assert run([str(whole), str(tmp_path / "c.jpg")], weights, tmp_path / "out") == 1
    assert f"skipped: {whole}: this video ends after" in capsys.readouterr().err
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    frames = {entry["frame"] for entry in entries if "frame" in entry}
    assert frames == set(range(len(frames)))
    assert 5 < len(frames) < FRAMES
    assert entries[-1]["file_name"] == str(tmp_path / "c.jpg")
    assert properties(tmp_path / "out" / "b.mkv.mp4")[3] == len(frames)


@pytest.mark.slow
@pytest.mark.usefixtures("video_backend")
def test_a_damaged_part_of_a_video_is_named_and_the_frames_after_it_are_used(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = as_matroska(folder / "b.mp4", tmp_path / "b.mkv", damaged=10)
    assert run([str(broken)], weights, tmp_path / "out") == 1
    assert f"{broken}: 1 parts of this video are damaged" in capsys.readouterr().err
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert max(entry["time"] for entry in entries) == pytest.approx((FRAMES - 1) / RATE)


@pytest.mark.usefixtures("video_backend")
@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_what_is_no_video_is_named(
    weights: Path, folder: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """An MP4 file that lacks its end has no index, so nothing of it can be read."""
    broken = tmp_path / "b.mp4"
    broken.write_bytes((folder / "b.mp4").read_bytes()[:-500] if content is None else content)
    assert run([str(broken)], weights, tmp_path / "out") == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-2].startswith(f"skipped: {broken}: this video can't be opened")
    assert told[-1].startswith("error: none of the 1 images can be read")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("video_backend")
def test_a_local_list_of_videos_leads_to_no_server(weights: Path, tmp_path: Path, server: "Server") -> None:
    """FFmpeg would follow it."""
    (tmp_path / "b.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\n{server.address}/b.mp4\n#EXT-X-ENDLIST\n")
    assert run([str(tmp_path / "b.mp4")], weights, tmp_path / "out") == 2
    listing = (tmp_path / "b.mp4").rename(tmp_path / "b.m3u8")  # the usual name, which `infer` doesn't take
    with pytest.raises(DataError, match="can't be opened"):
        list(read_video(Source(str(listing), "video")))
    assert server.asked == []


# URLs


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on this machine and notes what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def log_request(handler, *_: Any) -> None:  # noqa: N805
                self.asked.append(handler.path)

            def log_error(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("video_backend")
def test_an_image_and_a_video_by_url(weights: Path, folder: Path, tmp_path: Path, server: Server) -> None:
    sources = [f"{server.address}/a.jpg?size=large", f"{server.address}/b.mp4"]
    assert run(sources, weights, tmp_path / "out") == 0
    assert run([str(folder / "a.jpg"), str(folder / "b.mp4")], weights, tmp_path / "local") == 0
    by_url, local = (json.loads((tmp_path / out / "detections.json").read_text()) for out in ("out", "local"))
    for entry in (*by_url, *local):
        del entry["file_name"]
    assert by_url == local
    assert properties(tmp_path / "out" / "b.mp4")[3] == FRAMES


@pytest.mark.usefixtures("video_backend")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9/a.jpg", "can't be reached"),
        ("{server}/none.jpg", "the server says 404"),
        ("rtsp://127.0.0.1:9/street", "can't be opened"),
        ("http://", "can't be reached"),
    ],
)
def test_an_address_without_answer_is_named(
    weights: Path, tmp_path: Path, server: Server, address: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = address.format(server=server.address)
    assert run([address], weights, tmp_path) == 2
    told = capsys.readouterr().err
    assert f"{address}: " in told
    assert words in told


# cameras


class Camera:
    """In the place of OpenCV's: BGR images until its user presses Ctrl-C."""

    frames = 30

    def __init__(self, _number: int) -> None:
        self.read_so_far = 0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.read_so_far += 1
        image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        return self.read_so_far <= self.frames, image

    def release(self) -> None: ...


def test_ctrl_c_ends_a_camera_and_its_files_are_whole(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    taken = []

    def pressed(*arguments: Any) -> Any:
        for one in stream(*arguments):
            taken.append(one)
            yield one
            if len(taken) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("detector.inference.infer.stream", pressed)
    assert run(["camera:0"], weights, tmp_path) == 0
    assert properties(tmp_path / "camera_0.mp4")[1:] == (96, 64, 3)
    assert {entry["frame"] for entry in json.loads((tmp_path / "detections.json").read_text())} == {
        one.frame for one in taken
    }


def test_a_camera_that_fails_while_the_network_is_busy_says_so() -> None:
    all_shot = threading.Event()

    def shots() -> Iterator[streaming._Item]:
        source = Source("camera:0", "video", live=True)
        for number in range(50):
            yield streaming._Item(source, number, 0.0, np.zeros((8, 8, 3), np.uint8))
        all_shot.set()
        yield streaming._Item(source, 50, 0.0, DataError("camera:0: gone"))

    ahead = streaming._ahead(shots(), 2, threading.Event())
    seen = [next(ahead)]
    assert all_shot.wait(60)  # so long the network is busy with the first
    seen += ahead
    assert len(seen) <= 4
    assert isinstance(seen[-1].image, DataError)


def test_a_stop_does_not_wait_until_a_stream_is_opened_again(
    detector: Detector, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, paused = [], threading.Event()

    class Minute(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            paused.set()
            return super().wait(60 if timeout else None)

    def read_again(source: Source) -> Iterator[tuple[float, np.ndarray]]:
        opened.append(source)
        yield from read_video(Source(str(folder / "b.mp4"), "video"))

    monkeypatch.setattr(streaming, "Event", Minute)
    monkeypatch.setattr(video, "read_video", read_again)
    street, yard = (Source(f"rtsp://127.0.0.1/{name}", "video", live=True) for name in ("street", "yard"))
    seen = stream(detector, [street, yard])
    next(seen)
    assert paused.wait(60)
    seen.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "reads images"]
    assert opened == [street]


@pytest.mark.parametrize(("reconnect", "pauses"), [("0", []), ("5", [1, 2, 2])])
def test_a_stream_that_drops_for_good_is_given_up(
    weights: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reconnect: str,
    pauses: list[int],
) -> None:
    clock = Clock()
    attempts = iter([folder / "b.mp4"])

    def read_once(source: Source) -> Iterator[tuple[float, np.ndarray]]:
        for path in attempts:
            yield from read_video(Source(str(path), "video"))
            return
        raise DataError(f"{source.name}: this video can't be opened")

    monkeypatch.setattr(streaming, "Event", lambda: clock)
    monkeypatch.setattr(video, "monotonic", clock.monotonic)
    monkeypatch.setattr(video, "read_video", read_once)
    assert run(["rtsp://me:word@127.0.0.1/street", "--reconnect", reconnect], weights, tmp_path) == 1
    assert clock.pauses == pauses
    told = capsys.readouterr().err
    assert f"this stream has ended after {FRAMES} frames" in told
    assert ("; trying again for 5 s" in told) == ("; given up after 5 s" in told) == (reconnect == "5")
    assert "word" not in told


def test_a_camera_that_gives_nothing(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["camera:99"], weights, tmp_path) == 2
    assert "skipped: camera:99: this camera gives no image" in capsys.readouterr().err


def test_ctrl_c_in_a_file_leaves_nothing_half_done(
    weights: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*arguments: Any) -> Any:
        yield next(stream(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr("detector.inference.infer.stream", pressed)
    assert run([str(folder / "b.mp4")], weights, tmp_path / "out") == 2
    assert not list((tmp_path / "out").iterdir())


# what is written


def test_only_what_is_asked_for_is_written(weights: Path, folder: Path, tmp_path: Path) -> None:
    assert run([str(folder / "a.jpg"), "--save", "csv"], weights, tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["detections.csv"]
    assert run([str(folder / "a.jpg"), "--save", "csv,xml"], weights, tmp_path) == 2


def test_csv_and_json_say_the_same(weights: Path, folder: Path, tmp_path: Path) -> None:
    assert run([str(folder), "--save", "csv, json"], weights, tmp_path) == 0
    entries = json.loads((tmp_path / "detections.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "detections.csv").read_text())))
    assert len(rows) == len(entries) > FRAMES
    for row, entry in zip(rows, entries, strict=True):
        assert [float(row[name]) for name in ("x", "y", "width", "height")] == entry["bbox"]
        assert row["category_name"] == entry["category_name"]
        assert row["frame"] == str(entry.get("frame", ""))
        assert float(row["score"]) == entry["score"]


def test_names_that_are_no_text_are_written(weights: Path, folder: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xe4.jpg"
    try:
        shutil.copy(folder / "a.jpg", name)
    except OSError:
        pytest.skip("this file system takes text only")
    assert run([os.fsdecode(name), "--save", "csv,json"], weights, tmp_path / "out") == 0
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "detections.csv").read_text(encoding="utf-8"))))
    assert {entry["file_name"] for entry in entries} == {os.fsdecode(name)}
    assert {row["file_name"] for row in rows} == {f"{tmp_path}/\\udce4.jpg"}


@pytest.mark.slow
def test_crops_are_the_detections_pixels(weights: Path, detector: Detector, folder: Path, tmp_path: Path) -> None:
    assert run([str(folder / "a.jpg"), str(folder / "b.mp4"), "--save", "crops"], weights, tmp_path) == 0
    found, image = detector(folder / "a.jpg"), read_image(folder / "a.jpg")
    for number, (box, name) in enumerate(zip(found.boxes.tolist(), found.names, strict=True), start=1):
        crop = read_image(tmp_path / "crops" / name.replace("/", "_") / f"a.jpg_{number}.jpg")
        left, top = int(box[0]), int(box[1])
        height, width = crop.shape[:2]
        assert abs(width - (box[2] - box[0])) < 2
        assert abs(height - (box[3] - box[1])) < 2
        assert np.abs(crop.astype(int) - image[top : top + height, left : left + width]).mean() < 12
    assert len(list(tmp_path.glob("crops/*/a.jpg_*"))) == len(found)
    assert {path.name.split("_")[1] for path in tmp_path.glob("crops/*/b.mp4_*")} == {
        f"{number:06d}" for number in range(FRAMES)
    }


def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    with json_writer(tmp_path / "a.json"), csv_writer(tmp_path / "a.csv"):
        pass
    assert json.loads((tmp_path / "a.json").read_text()) == []
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("video_backend")
@pytest.mark.parametrize(
    ("wanted", "file"), [("json", "detections.json"), ("csv", "detections.csv"), ("images", "b.mp4")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    weights: Path, folder: Path, tmp_path: Path, wanted: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        assert run([str(folder / "b.mp4"), "--save", wanted], weights, tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / file}: can't be written (File too large)")
    assert not list(tmp_path.iterdir())


def test_to_supervision(detector: Detector, folder: Path) -> None:
    found = detector(folder / "a.jpg")
    converted = found.to_supervision()
    assert len(converted) == len(found) > 3
    assert np.array_equal(converted.xyxy, found.boxes.numpy())
    assert np.array_equal(converted.confidence, found.scores.numpy())
    assert converted.class_id.tolist() == found.labels.tolist()
    assert converted.data["class_name"].tolist() == found.names
    nothing = Detections(found.boxes[:0], found.scores[:0], found.labels[:0], CATEGORIES).to_supervision()
    assert len(nothing) == 0
