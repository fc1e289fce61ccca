"""Videos whose frames can be told apart, and a clock for streams that pause."""

from pathlib import Path
from threading import Event

import av
import numpy as np

from detector.inference.video_pyav import video_writer

RATE = 10  # frames a second


def draw_video(path: Path, frames: int, size: tuple[int, int] = (96, 64)) -> Path:
    """An MP4 file of (width, height) in which the left half of each frame is brighter than before, the right noise."""
    width, height = size
    random = np.random.default_rng(0)
    with video_writer(path) as write:
        for number in range(frames):
            image = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            image[:, : width // 2] = 4 * number
            write(image, number / RATE)
    return path


def as_matroska(
    path: Path, target: Path, damaged: int | None = None, start: float = 0, jump: tuple[int, float] = (0, 0)
) -> Path:
    """The same frames, not encoded anew, in a file that can be read up to where it is cut off; `damaged`: the number of a
    packet whose content is overwritten; the first is at `start` s, those from number jump[0] on are jump[1] s later."""
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None:
                if number == damaged:
                    noise = av.Packet(bytes([0, 0, 0, 4, 255, 255, 255, 255]) * (packet.size // 8))
                    noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
                    packet = noise
                late = round((start + (jump[1] if number >= jump[0] else 0)) / packet.time_base)
                packet.pts, packet.dts = packet.pts + late, packet.dts + late
                packet.stream = stream
                copy.mux(packet)
    return target


class Clock(Event):
    """In the place of the event that ends pauses: they take no time, but its clock goes on by them."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        return self.is_set()

    def monotonic(self) -> float:
        return float(sum(self.pauses))


def properties(path: Path) -> tuple[float, int, int, int]:
    """Frames a second, width, height and number of frames that can be decoded."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        return float(stream.average_rate), stream.width, stream.height, sum(1 for _ in container.decode(stream))
