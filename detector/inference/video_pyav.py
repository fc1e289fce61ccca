"""Video files and streams through PyAV (FFmpeg's libraries), of the extra `video`: frame times are kept exactly."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from detector.errors import DataError
from detector.inference.display_matrix import upright
from detector.inference.sources import Source
from detector.inference.video import Ending, Frame, Write
from detector.utils.fileio import atomic_path, writing
from detector.utils.http import TIMEOUT

CLOCK = 90_000  # ticks a second of written times: integers for the usual frame rates


def frames(source: Source) -> Generator[Frame, None, Ending]:
    """As `read_video` yields them; then what was read. Raises DataError if it can't be opened or read any further."""
    with _open(source) as container:
        stream = _video_stream(source, container)
        count, broken, first, end = 0, 0, None, 0.0
        interval = float(1 / stream.average_rate) if stream.average_rate else 0.0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                raise DataError(
                    f"{source.name}: this video can't be read beyond its frame {count} ({error.strerror})"
                ) from error
            if packet is None:
                return Ending(count, broken, end, _length(stream, first or 0.0))
            try:
                decoded = packet.decode()
            except FFmpegError:
                broken += 1
                continue
            broken += packet.is_corrupt
            for frame in decoded:
                moment = frame.time if frame.time is not None else count * interval
                first = moment if first is None else first
                end = max(end, moment - first + max(interval, float(frame.duration * (frame.time_base or 0))))
                yield moment - first, _upright(frame)
                count += 1


def frame_size(source: Source) -> tuple[int, int]:
    """(width, height) of the frames as the file's header says, before any is decoded. Raises DataError as `frames` does."""
    with _open(source) as container:
        stream = _video_stream(source, container)
        return stream.width, stream.height


def _video_stream(source: Source, container: "av.container.InputContainer") -> "av.VideoStream":
    if not container.streams.video:
        raise DataError(f"{source.name}: there is no video in this file; name another")
    return container.streams.video[0]


def _open(source: Source) -> "av.container.InputContainer":
    try:
        if source.url:
            return av.open(source.location, timeout=TIMEOUT)
        # a local file may be a list that names other places: only files are followed, and no name is taken for a protocol
        return av.open(f"file:{source.name}", options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        remedy = "check the address and the network" if source.url else "repair it or name another"
        raise DataError(f"{source.name}: this video can't be opened ({reason}); {remedy}") from error


def _length(stream: "av.VideoStream", first: float) -> float:
    """Seconds of the video from its first frame on, by its header, 0 if that doesn't tell."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Matroska has the time of the end: 00:00:12.345000000
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - first
    except ValueError:
        return 0.0


def _upright(frame: "av.VideoFrame") -> UInt8[np.ndarray, "height width 3"]:
    """The frame as a player shows it; phones store theirs lying."""
    image = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    return upright(image, np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].astype(np.float64))


@contextmanager
def video_writer(path: Path) -> Iterator[Write]:
    """As `detector.inference.video.video_writer`: H.264 with the times given. Raises WriteError."""
    with atomic_path(path) as temporary:
        with writing(path):
            container = av.open(str(temporary), "w", format="mp4")
        stream: av.VideoStream | None = None
        last, interval = -CLOCK // 1000, CLOCK // 25  # of the written frames, in ticks

        def mux(frame: av.VideoFrame | None) -> None:
            assert stream is not None
            for packet in stream.encode(frame):
                packet.duration = interval  # the last one's would be a default
                container.mux(packet)

        def write(image: UInt8[np.ndarray, "height width 3"], seconds: float) -> None:
            nonlocal stream, last, interval
            with writing(path):
                if stream is None:
                    stream = _add_stream(container, image.shape[1], image.shape[0])
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame = frame.reformat(stream.width, stream.height, stream.pix_fmt)
                # times only go up, by steps that players can show
                moment = max(round(seconds * CLOCK), last + CLOCK // 1000)
                frame.pts, frame.time_base = moment, Fraction(1, CLOCK)
                interval, last = moment - last if last >= 0 else interval, moment
                mux(frame)

        try:
            yield write
            with writing(path):
                if stream is not None:
                    mux(None)
        finally:
            with writing(path):
                container.close()


def _add_stream(container: "av.container.OutputContainer", width: int, height: int) -> "av.VideoStream":
    stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4")
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = width, height
    # the usual pixels have one color for two in each direction, which odd sides have no room for
    stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
    stream.codec_context.time_base = Fraction(1, CLOCK)
    return stream
