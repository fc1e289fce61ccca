"""Track numbers on drawn videos whose tracks are known, and what is written of them."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_tracks import HEIGHT, MOVERS, SECONDS, WIDTH, Box, count_switches, truth
from PIL import Image
from torch import Tensor
from trackers import load_mot_file

from detector.cli import main
from detector.formats.runtime import Runtime, Selection
from detector.images import draw
from detector.inference.detector import Detector
from detector.inference.output_names import mot_names
from detector.inference.sources import Source
from detector.inference.streaming import StreamResult
from detector.inference.tracking import track
from detector.inference.video_pyav import video_writer
from detector.models.postprocess import NmsResult
from detector.structures import Categories, Detections

CATEGORIES = Categories((3, 7), ("car", "bus"))
SHOWN = torch.tensor([0.5, 0.25])
"""Lowest score of each class."""


def results(times: Iterable[float], boxes: Sequence[Mapping[str, Box]]) -> list[StreamResult]:
    """Frames in which exactly these boxes were found."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frames = []
    for number, (time, found) in enumerate(zip(times, boxes, strict=True)):
        detections = Detections(
            torch.tensor(list(found.values()), dtype=torch.float32).reshape(-1, 4),
            torch.full((len(found),), 0.9),
            torch.zeros(len(found), dtype=torch.int64),
            CATEGORIES,
        )
        frames.append(StreamResult(Source("a.mp4", "video"), number, time, pixels, detections))
    return frames


def tracks(result: StreamResult) -> dict[int, Box]:
    """The box of each track in a frame."""
    found = result.detections
    assert found.track_ids is not None
    boxes = {number: tuple(box) for number, box in zip(found.track_ids.tolist(), found.boxes.tolist(), strict=True)}
    return {number: box for number, box in boxes.items() if number}  # type: ignore[misc]


def rated(rate: float) -> list[float]:
    return [number / rate for number in range(round(SECONDS * rate))]


RATES = {
    "5 a second": rated(5),
    "10 a second": rated(10),
    "29.97 a second": rated(29.97),
    "60 a second": rated(60),
    "changing": sorted({*rated(10), *rated(24)}),
}


@pytest.mark.parametrize("times", RATES.values(), ids=RATES)
def test_objects_keep_their_numbers(times: list[float]) -> None:
    """Two that cross, one that is hidden for half a second, one at rest: a number each."""
    true = [truth(time) for time in times]
    tracked = list(track(results(times, true), SHOWN))
    found = [tracks(result) for result in tracked]
    assert count_switches(list(zip(true, found, strict=True))) == 0
    assert {number for boxes in found for number in boxes} == {1, 2, 3, 4}
    assert [len(boxes) for boxes in found] == [0] + [len(boxes) for boxes in true[1:]]  # a track begins with its second


def test_a_number_that_changes_is_counted() -> None:
    """What the other tests count must be there when numbers are exchanged, or begin anew."""
    frames = []
    for true in map(truth, rated(10)):
        frames.append((true, {number: true[name] for number, name in enumerate(MOVERS) if name in true}))
    assert count_switches(frames) == 0
    true, found = frames[20]
    exchanged = true, {**found, 0: found[1], 1: found[0]}
    assert count_switches([*frames[:20], exchanged, *frames[21:]]) == 4
    assert count_switches([*frames[:20], exchanged]) == 2
    assert count_switches([*frames[:20], (true, {9 + number: box for number, box in found.items()})]) == 4


def test_an_object_that_comes_back_after_more_than_a_second_is_a_new_one() -> None:
    times = rated(10)
    still = [{} if 0.5 < time < 1.8 else {"still": truth(time)["still"]} for time in times]
    found = [tracks(result) for result in track(results(times, still), SHOWN)]
    assert {number for boxes in found[:6] for number in boxes} == {1}
    assert {number for boxes in found[18:] for number in boxes} == {2}


def test_the_same_video_has_the_same_numbers_and_each_video_its_own() -> None:
    times = rated(10)
    first, second = ([tracks(each) for each in track(results(times, list(map(truth, times))), SHOWN)] for _ in range(2))
    assert first == second
    assert {number for boxes in first for number in boxes} == {1, 2, 3, 4}


def test_weak_detections_continue_tracks_and_are_else_left_out() -> None:
    """Strong and weak are as their class says; a switch of the class stays in the track."""
    (one, two, three, four) = results([0.0, 0.1, 0.2, 0.3], [{"still": MOVERS["still"].box(0)}] * 4)
    weak = one.detections.boxes - 200  # an object that never is strong enough

    def changed(result: StreamResult, score: float, label: int) -> StreamResult:
        boxes = torch.cat([result.detections.boxes, weak])
        found = Detections(boxes, torch.tensor([score, 0.2]), torch.tensor([label, 0]), CATEGORIES)
        return result._replace(detections=found)

    given = [changed(one, 0.5, 0), changed(two, 0.25, 1), changed(three, 0.12, 0), changed(four, 0.4, 0)]
    found = [result.detections for result in track(given, SHOWN)]
    assert [each.track_ids.tolist() for each in found if each.track_ids is not None] == [[0], [1], [1], [1]]
    assert [each.names for each in found] == [["car"], ["bus"], ["car"], ["car"]]
    assert [round(each.scores.item(), 2) for each in found] == [0.5, 0.25, 0.12, 0.4]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("times", [[0.0] * 30, [0.0, 0.1, 0.05, 0.15, *rated(10)[2:]]])
def test_time_stamps_that_do_not_advance(times: list[float]) -> None:
    found = [tracks(each) for each in track(results(times, [{"still": MOVERS["still"].box(0)}] * len(times)), SHOWN)]
    assert [set(boxes) for boxes in found[1:]] == [{1}] * (len(times) - 1)


def test_frames_without_a_detection() -> None:
    found = list(track(results([0.0, 0.1], [{}, {}]), SHOWN))
    assert [len(each.detections) for each in found] == [0, 0]
    assert list(track([], SHOWN)) == []


def test_detections_carry_their_tracks() -> None:
    *_, last = track(results([0.0, 0.1], [truth(0), truth(0.1)]), SHOWN)
    picked = last.detections[1:3]
    assert picked.track_ids is not None
    assert picked.track_ids.tolist() == [2, 3]
    assert picked.to_supervision().tracker_id.tolist() == [2, 3]


# the command


class ColorRuntime(Runtime):
    """Finds what has the color of an object and shows half of its area at least, cars and buses in turn."""

    def detect(self, inputs: Tensor, selection: Selection) -> list[NmsResult]:
        del selection
        return [self._find(image.permute(1, 2, 0).numpy().astype(int)) for image in inputs]

    def _find(self, image: np.ndarray) -> NmsResult:
        boxes, labels = [], []
        for number, (color, mover) in enumerate(zip(COLORS, MOVERS.values(), strict=True)):
            rows, columns = np.nonzero(np.abs(image - color).max(axis=2) < 60)
            if len(rows) >= mover.size[0] * mover.size[1] / 2:
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(number % 2)
        tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return NmsResult(tensor, torch.full((len(boxes),), 0.75), torch.tensor(labels, dtype=torch.int64))


COLORS = ((220, 40, 40), (40, 220, 40), (60, 60, 230), (220, 220, 40))
RATE = 10


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of `MOVERS`, each in its color, the first before the others."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with video_writer(path) as write:
        for time in rated(RATE):
            image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
            for color, (name, mover) in reversed(list(zip(COLORS, MOVERS.items(), strict=True))):
                left, top, right, bottom = map(round, mover.box(time))
                if name in truth(time):
                    image[top:bottom, left:right] = color
            write(image, time)
    return path


def run(sources: Sequence[Path], out: Path, *options: str) -> int:
    return main(["infer", *map(str, sources), "--weights", "drawn", "--out", str(out), "--track", *options])


@pytest.fixture
def _drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that find the drawn objects."""
    load = lambda _path, config: Detector(ColorRuntime(), CATEGORIES, (HEIGHT, WIDTH), config)  # noqa: E731
    monkeypatch.setattr(Detector, "load", load)


@pytest.mark.slow
@pytest.mark.usefixtures("_drawn")
def test_infer_writes_tracks(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers in JSON, CSV and MOT are the same, and those of one object never change; two videos have numbers of their own."""
    again = tmp_path / "again.mp4"
    again.write_bytes(film.read_bytes())
    assert run([film, again], tmp_path / "out", "--save", "json,csv,mot") == 0
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    frames = [(truth(time), {}) for time in rated(RATE)]
    for entry in entries:
        left, top, width, height = entry["bbox"]
        if entry["track_id"] and entry["file_name"] == str(film):
            frames[entry["frame"]][1][entry["track_id"]] = (left, top, left + width, top + height)
    assert count_switches(frames) == 0
    assert sum(len(found) for _, found in frames) > 3 * len(frames)
    assert {entry["track_id"] for entry in entries} == {None, 1, 2, 3, 4}

    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "detections.csv").read_text())))
    assert [row["track_id"] for row in rows] == [str(entry["track_id"] or "") for entry in entries]
    for path in (film, again):
        (name,) = (tmp_path / "out").rglob(path.with_suffix(".txt").name)
        lines = [tuple(map(float, line.split(","))) for line in name.read_text().splitlines()]
        assert lines == sorted(lines)
        assert lines == sorted(
            (
                entry["frame"] + 1,
                entry["track_id"],
                entry["bbox"][0] + 1,
                entry["bbox"][1] + 1,
                *entry["bbox"][2:],
                entry["score"],
                CATEGORIES.ids.index(entry["category_id"]) + 1,
                1,
            )
            for entry in entries
            if entry["file_name"] == str(path) and entry["track_id"]
        )
        read = load_mot_file(name)
        assert {frame: len(each.ids) for frame, each in read.items()} == Counter(line[0] for line in lines)
    assert "; 8 tracks" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("_drawn")
def test_an_annotated_video_shows_the_tracks(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id stands in the text of each detection, the same in all frames but the first."""
    texts: list[str] = []
    fit = draw.fit_text
    monkeypatch.setattr(draw, "fit_text", lambda text, *sizes: (texts.append(text), fit(text, *sizes))[1])
    assert run([film], tmp_path, "--save", "images,json") == 0
    entries = json.loads((tmp_path / "detections.json").read_text())
    still = next(entry["track_id"] for entry in entries if entry["bbox"][0] > 390 and entry["track_id"])
    assert texts.count(f"bus #{still} 0.75") == len(rated(RATE)) - 1
    assert texts[:4] == ["car 0.75", "bus 0.75"] * 2


def test_tracked_detections_are_drawn_in_the_colors_of_their_tracks() -> None:
    found = Detections(torch.tensor([[20.0, 60, 80, 90]]), torch.ones(1), torch.tensor([1]), CATEGORIES)
    image = np.zeros((100, 100, 3), np.uint8)
    for track_ids, color in ((None, 1), (torch.tensor([0]), 0), (torch.tensor([7]), 7)):
        drawn = draw.draw_detections(image, replace(found, track_ids=track_ids))
        assert tuple(drawn[75, 20]) == draw.label_color(color)


@pytest.mark.usefixtures("_drawn")
def test_images_are_not_tracked(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    assert run([film, image], tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"error: --track: {image} is an image; objects are followed through videos and cameras only\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["trackers", "supervision"])
@pytest.mark.usefixtures("_drawn")
def test_without_the_extra_its_name_is_said(
    film: Path, tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "detector.inference.tracking")
    monkeypatch.setitem(sys.modules, missing, None)
    assert run([film], tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --track: needs the package {missing}: pip install 'attention-detector[track]' and")
    assert "pip install --no-deps 'trackers" in line
    assert not (tmp_path / "out").exists()


def test_mot_without_tracks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "a.mp4", "--weights", "w", "--out", str(tmp_path), "--save", "mot"]) == 2
    assert "save: invalid value 'mot': expected --track beside it" in capsys.readouterr().err


def test_files_of_tracks_are_kept_apart() -> None:
    names = [Path("a.mp4"), Path("a.MP4"), Path("b/a.mp4")]
    assert mot_names(names) == [Path("a.txt"), Path("a_.txt"), Path("b/a.txt")]
