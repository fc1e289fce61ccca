"""Videos with the extra `video` and without it: times, rotation, names, servers, and what a user is told."""

import os
import socket
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from drawn_video import RATE, Clock, as_matroska, draw_video, properties

from detector.errors import DataError
from detector.inference import video, video_opencv, video_pyav
from detector.inference.sources import Source, find_sources
from detector.inference.video import read_stream, read_video, video_writer
from detector.inference.video_opencv import constant_rate

REPOSITORY = Path(__file__).parents[1]
TURN = 1 << 16  # 1 in the fixed-point numbers of an MP4 file's matrix


def read(path: Path) -> list[tuple[float, np.ndarray]]:
    return list(read_video(Source(str(path), "video")))


def times(path: Path) -> list[float]:
    return [seconds for seconds, _ in read(path)]


@pytest.mark.usefixtures("video_backend")
def test_times_of_frames_are_read_exactly(tmp_path: Path) -> None:
    expected = [0.0, 0.1, 0.15, 0.5, 1.5, 1.55]
    with video_pyav.video_writer(tmp_path / "a.mp4") as write:
        for seconds in expected:
            write(np.full((64, 96, 3), 128, np.uint8), seconds)
    assert times(tmp_path / "a.mp4") == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("frames", [1, 5, 25])
def test_written_frames_come_back(tmp_path: Path, frames: int, video_backend: str) -> None:
    """With PyAV at their times, else at the rate of most of the first, each within half a frame at a constant rate."""
    with video_writer(tmp_path / "a.mp4") as write:
        for number in range(frames):
            image = np.zeros((64, 96, 3), np.uint8)
            image[:, :48, 0] = 10 * number  # red
            write(image, number / RATE + (3 if number >= 20 else 0))
    found = read(tmp_path / "a.mp4")
    assert len(found) == frames
    pause = 3 if video_backend == "av" else 0
    for number, (seconds, image) in enumerate(found):
        assert seconds == pytest.approx(number / RATE + (pause if number >= 20 else 0), abs=0.5 / RATE)
        assert image[8:-8, 8:40].mean(axis=(0, 1)) == pytest.approx([10 * number, 0, 0], abs=6)


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        ([0, 0.1, 0.2, 0.3], 10),
        ([0, 1001 / 30000, 2002 / 30000], 29.97),
        ([0, 0.1, 0.2, 5, 5.1], 10),
        ([0, 1 / 120.4567], 120.46),  # 120457 / 1000 is more than the codec takes
        ([0, 1 / 1234.56], 1235),
        ([0, 1000], 0.01),
        ([0], 25),
        ([], 25),
        ([0, 0, 0], 25),
    ],
)
def test_a_constant_rate_is_that_of_most_frames(times: list[float], rate: float, tmp_path: Path) -> None:
    assert constant_rate(times) == pytest.approx(rate)
    with video_opencv.video_writer(tmp_path / "a.mp4") as write:
        for seconds in times:
            write(np.zeros((16, 16, 3), np.uint8), seconds)
    if times:
        assert properties(tmp_path / "a.mp4") == (pytest.approx(rate), 16, 16, len(times))


@pytest.mark.usefixtures("video_backend")
def test_frames_of_other_sizes_are_brought_to_that_of_the_first(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4") as write:
        for number, size in enumerate(((64, 96), (32, 48), (100, 100))):
            write(np.full((*size, 3), 99, np.uint8), number / RATE)
    assert properties(tmp_path / "a.mp4") == (RATE, 96, 64, 3)


@pytest.mark.usefixtures("video_backend")
def test_a_video_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def fail() -> None:
        with video_writer(tmp_path / "a.mp4") as write:
            for number in range(20):
                write(np.zeros((64, 96, 3), np.uint8), number / RATE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("matrix", "corners"),
    [  # corners as read: top left, top right, bottom left, bottom right of what is stored as ABCD
        ((1, 0, 0, 1), "ABCD"),
        ((-1, 0, 0, 1), "BADC"),
        ((-1, 0, 0, -1), "DCBA"),
        ((1, 0, 0, -1), "CDAB"),
        ((0, 1, 1, 0), "ACBD"),
        ((0, 1, -1, 0), "CADB"),
        ((0, -1, -1, 0), "DBCA"),
        ((0, -1, 1, 0), "BDAC"),
    ],
)
@pytest.mark.usefixtures("video_backend")
def test_frames_are_turned_and_mirrored_as_the_file_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], corners: str
) -> None:
    path = draw_corners(tmp_path / "a.mp4")
    set_matrix(path, b"tkhd", 44, matrix)
    assert read_corners(path) == corners


@pytest.mark.usefixtures("video_backend")
def test_frames_are_turned_by_the_movie_after_the_track(tmp_path: Path) -> None:
    path = draw_corners(tmp_path / "a.mp4")
    set_matrix(path, b"tkhd", 44, (0, 1, -1, 0))
    assert read_corners(path) == "CADB"
    set_matrix(path, b"mvhd", 40, (-1, 0, 0, 1))
    assert read_corners(path) == "ACBD"


@pytest.mark.usefixtures("video_backend")
def test_other_files_are_turned_by_ffmpeg(tmp_path: Path) -> None:
    path = draw_corners(tmp_path / "a.mp4")
    set_matrix(path, b"tkhd", 44, (0, 1, -1, 0))
    assert read_corners(as_matroska(path, tmp_path / "a.mkv")) == "CADB"


def draw_corners(path: Path) -> Path:
    """A video of one frame, whose quarters get brighter row by row: A, B, C, D."""
    shades = np.array([[10, 80], [150, 220]], np.uint8).repeat(32, axis=0).repeat(48, axis=1)
    with video_pyav.video_writer(path) as write:
        write(np.repeat(shades[..., None], 3, axis=2), 0)
    return path


def set_matrix(path: Path, header: bytes, offset: int, matrix: tuple[int, int, int, int]) -> None:
    """Change that in the header of the track or the movie, `offset` after its name: a b u, c d v, x y w."""
    a, b, c, d = matrix
    content = bytearray(path.read_bytes())
    place = content.index(header) + offset
    assert struct.unpack_from(">9i", content, place) == (TURN, 0, 0, 0, TURN, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, place, a * TURN, b * TURN, 0, c * TURN, d * TURN, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def read_corners(path: Path) -> str:
    ((_, image),) = read(path)
    seen = [image[8, 8], image[8, -8], image[-8, 8], image[-8, -8]]
    corners = "".join("ABCD"[round((shade - 10) / 70)] for shade in np.mean(seen, axis=1))
    assert image.shape == (
        (64, 96, 3) if abs("ABCD".index(corners[0]) - "ABCD".index(corners[1])) == 1 else (96, 64, 3)
    )
    return corners


@pytest.mark.usefixtures("video_backend")
def test_a_video_whose_time_does_not_start_at_0_is_whole(tmp_path: Path) -> None:
    path = as_matroska(draw_video(tmp_path / "a.mp4", 20), tmp_path / "a.mkv", start=5)
    assert times(path) == pytest.approx([number / RATE for number in range(20)], abs=2e-3)


@pytest.mark.usefixtures("video_backend")
def test_a_jump_of_the_time_stamps_is_taken_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_matroska(draw_video(tmp_path / "a.mp4", 20), tmp_path / "a.mkv", jump=(10, 1e9))
    capsys.readouterr()
    with video_writer(tmp_path / "b.mp4") as write:
        for seconds, image in read(path):
            write(image, seconds)
    assert times(tmp_path / "b.mp4") == pytest.approx([number / RATE for number in range(20)], abs=2e-3)
    assert capsys.readouterr().err.count("its time stamps jump by 1000000000 s") == 1


@pytest.mark.usefixtures("video_backend")
@pytest.mark.parametrize("name", ["100 %03d.mp4", "a:b.mp4", "http:", "ä ☃.mp4"])
def test_names_are_no_patterns_and_no_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    draw_video(Path("whole.mp4"), 3).rename(name)
    assert len(times(Path(name))) == 3
    with video_writer(Path("x:y") / name) as write:
        write(np.zeros((64, 96, 3), np.uint8), 0)
    assert len(times(Path("x:y") / name)) == 1


def test_a_name_that_is_no_text(tmp_path: Path, video_backend: str) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4.mp4"))
    try:
        draw_video(tmp_path / "a.mp4", 3).rename(path)
    except OSError:
        pytest.skip("this file system takes text only")
    if video_backend == "av":
        assert len(times(path)) == 3
    else:
        with pytest.raises(DataError, match="rename it"):
            read(path)


def test_a_server_that_is_silent_is_given_up(video_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr({"av": video_pyav, "cv2": video_opencv}[video_backend], "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(DataError, match="can't be opened"):
            next(read_video(Source(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/street", "video", live=True)))
    assert time.monotonic() - start < 60  # the default is minutes


def test_a_stream_that_drops_is_opened_again(
    tmp_path: Path, video_backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After growing pauses, which start anew when it is back; its times go on by the clock."""
    there = Source(str(draw_video(tmp_path / "a.mp4", 3)), "video")
    module = {"av": video_pyav, "cv2": video_opencv}[video_backend]
    answers = iter([True, False, False, False, True])
    really_open, clock = module._open, Clock()

    def open_when_there(source: Source) -> object:
        if next(answers, False):
            return really_open(there)
        raise DataError(f"{source.name}: this video can't be opened (refused)")

    monkeypatch.setattr(module, "_open", open_when_there)
    monkeypatch.setattr(video, "monotonic", clock.monotonic)
    found = []
    (source,) = find_sources(["rtsp://me:word@127.0.0.1/street"])
    with pytest.raises(DataError, match=r"can't be opened \(refused\); given up after 20 s$"):
        found.extend(seconds for seconds, _ in read_stream(source, 20, clock))
    assert clock.pauses == [1, 2, 4, 8, 1, 2, 4, 8, 5]
    assert found == pytest.approx([0, 1 / RATE, 2 / RATE, *(2 / RATE + 15 + number / RATE for number in range(3))])
    dropped, back, again = capsys.readouterr().err.replace("***@", "").splitlines()[-3:]
    assert dropped.endswith("ended after 3 frames; check the camera and the network; trying again for 20 s")
    assert back == "rtsp://127.0.0.1/street: frames again after 15 s"
    assert again.startswith("rtsp://127.0.0.1/street: this stream has ended after 6 frames")


@pytest.mark.usefixtures("video_backend")
def test_a_stream_that_never_was_there_is_not_opened_again() -> None:
    clock = Clock()
    with pytest.raises(DataError, match="can't be opened"):
        next(read_stream(Source("rtsp://127.0.0.1:9/street", "video", live=True), 20, clock))
    assert clock.pauses == []


def test_what_is_lost_is_said_once_and_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = draw_video(tmp_path / "a.mp4", 3)
    video._say_what_is_lost.cache_clear()
    read(path)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "av", None)
    read(path)
    read(path)
    with video_writer(tmp_path / "b.mp4") as write:
        write(np.zeros((64, 96, 3), np.uint8), 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pip install 'attention-detector[video]'")


@pytest.mark.slow
def test_opencv_and_ffmpeg_say_nothing_themselves(tmp_path: Path) -> None:
    """In a process of its own: OpenCV decides when it first opens a video whether FFmpeg's messages are shown."""
    whole = as_matroska(draw_video(tmp_path / "a.mp4", 25), tmp_path / "a.mkv")
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "none.mp4").write_bytes(b"no video")
    as_matroska(tmp_path / "a.mp4", tmp_path / "damaged.mkv", damaged=10)
    script = """if True:
        import sys
        sys.modules["av"] = None
        from detector.errors import DataError
        from detector.inference.video import Source, read_video
        for name in sys.argv[1:]:
            try:
                for _ in read_video(Source(name, "video")): pass
            except DataError as error:
                print(error)
    """
    arguments = [str(tmp_path / name) for name in ("none.mp4", "damaged.mkv", "cut.mkv")]
    arguments.append("http://127.0.0.1:9/a.mp4")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert len(done.stderr.splitlines()) == 1
    for name, line in zip(arguments, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{name}: ")


@pytest.mark.usefixtures("video_backend")
def test_a_damaged_part_leaves_the_other_frames_at_their_times(tmp_path: Path) -> None:
    path = as_matroska(draw_video(tmp_path / "a.mp4", 25), tmp_path / "a.mkv", damaged=10)
    found = []
    with pytest.raises(DataError, match="1 parts of this video are damaged; its 24 frames"):
        found.extend(seconds for seconds, _ in read_video(Source(str(path), "video")))
    assert len(found) == 24
    assert found[-1] == pytest.approx(2.4)
    assert all(later > earlier for earlier, later in pairwise(found))
