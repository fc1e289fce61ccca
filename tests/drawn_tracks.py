"""Objects that move in known ways, and a count of how often their track's number changes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

Box = tuple[float, float, float, float]


class Mover(NamedTuple):
    """A box that moves evenly: (left, top) at 0 s, pixels a second, (width, height); hidden between these seconds."""

    start: tuple[float, float]
    speed: tuple[float, float]
    size: tuple[float, float] = (48, 40)
    hidden: tuple[float, float] = (0, 0)

    def box(self, seconds: float) -> Box:
        left, top = (start + speed * seconds for start, speed in zip(self.start, self.speed, strict=True))
        return left, top, left + self.size[0], top + self.size[1]

    def seen(self, seconds: float) -> bool:
        return not self.hidden[0] <= seconds < self.hidden[1]


MOVERS: Mapping[str, Mover] = {
    "to the right": Mover((10, 60), (90, 4)),  # these two cross after 1.5 s, 8 px apart
    "to the left": Mover((280, 80), (-90, -4)),
    "hidden for half a second": Mover((40, 160), (60, 0), hidden=(1.0, 1.5)),
    "still": Mover((400, 200), (0, 0)),
}
WIDTH, HEIGHT, SECONDS = 480, 256, 3.0


def truth(seconds: float) -> dict[str, Box]:
    """The box of each object that is to be seen at that time."""
    return {name: mover.box(seconds) for name, mover in MOVERS.items() if mover.seen(seconds)}


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both)


def pairs(true: Mapping[str, Box], found: Mapping[int, Box]) -> Iterator[tuple[str, int]]:
    """Objects with the track that lies on them, all ways tried: that of the largest sum of IoUs, 0.5 at least each."""
    names = list(true)
    tracks = [*found, *(-1 for _ in names)]  # -1: on none
    overlaps = {(name, track): iou(true[name], box) for name in true for track, box in found.items()}
    good = {pair: overlap for pair, overlap in overlaps.items() if overlap >= 0.5}
    ways = (list(zip(names, way, strict=True)) for way in permutations(tracks, len(names)))
    best = max(ways, key=lambda way: sum(good.get(pair, 0) for pair in way))
    yield from (pair for pair in best if pair in good)


def count_switches(frames: Sequence[tuple[Mapping[str, Box], Mapping[int, Box]]]) -> int:
    """How often an object is in another track than before (CLEAR MOT's mismatches); frames: what is true, what was found."""
    last: dict[str, int] = {}
    switches = 0
    for true, found in frames:
        for name, track in pairs(true, found):
            switches += last.get(name, track) != track
            last[name] = track
    return switches
