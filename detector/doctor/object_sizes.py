"""How large the objects are in the network input, and what would make them large enough."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64

from detector.config import MAX_SIDE
from detector.doctor.columns import Columns
from detector.doctor.findings import Finding, Severity
from detector.images.input_size import STEP, InputSize

SMALLEST = 8.0
"""Pixels of the network input: the stride of the finest level; a shorter side is less than one cell."""
LEFT, WORTH_A_WARNING = 0.02, 0.1
"""Fraction of the objects that may be smaller, and that from which on it is a warning."""
LARGEST_ADVISED = 1536
"""Pixels; a larger input is slow and takes much memory, so tiles are named where they help."""
MUCH_LARGER = 1.5
"""Longer side of the middle image, in that of the input, from which on tiles show more than the whole image."""


def check_object_sizes(splits: Sequence[Columns], input_size: InputSize, tiles: int | None = None) -> Iterator[Finding]:
    """Objects whose shorter side is less than `SMALLEST` px in the network input; tiles: side of the windows that are it."""
    sides = {each.split: _shorter_sides(each, input_size, tiles) for each in splits}
    every = np.concatenate(list(sides.values()))
    counts: dict[str, int] = {split: int(np.count_nonzero(each[:, 0] < SMALLEST)) for split, each in sides.items()}
    part = sum(counts.values()) / max(len(every), 1)
    if part <= LEFT:
        return
    what = (
        f"objects ({part:.0%}) with a side under {SMALLEST:g} px at --image_size"
        f" {_in_words(input_size)}, which are hardly found"
    )
    longest = np.concatenate([each.sizes.max(axis=1) for each in splits])
    severity: Severity = "warning" if part >= WORTH_A_WARNING else "note"
    examples = tuple(example for each in splits for example in each.examples(_small(each, input_size, tiles)))
    yield Finding("object-small", severity, what, counts, _cure(every, longest, input_size), examples)


def _scales(columns: Columns, input_size: InputSize, tiles: int | None) -> Float64[np.ndarray, " annotations"]:
    """Pixels of the network input for one of the image of each annotation."""
    sizes = columns.box_sizes.clip(1, tiles)
    return np.asarray(np.minimum(input_size.width / sizes[:, 0], input_size.height / sizes[:, 1]))


def _small(columns: Columns, input_size: InputSize, tiles: int | None) -> np.ndarray:
    sides = np.where(columns.are_objects, columns.xywh[:, 2:].min(axis=1) * _scales(columns, input_size, tiles), np.inf)
    return np.asarray(sides < SMALLEST)


def _shorter_sides(columns: Columns, input_size: InputSize, tiles: int | None) -> Float64[np.ndarray, "objects 2"]:
    """The shorter side of each object in pixels of the network input, and of the image."""
    objects = columns.are_objects
    sides = columns.xywh[objects, 2:].min(axis=1)
    return np.column_stack((sides * _scales(columns, input_size, tiles)[objects], sides))


def _cure(sides: Float64[np.ndarray, "objects 2"], longest: np.ndarray, input_size: InputSize) -> str:
    """The image size at which all but `LEFT` are large enough, and whether tiles pay."""
    factor = SMALLEST / max(float(np.quantile(sides[:, 0], LEFT)), SMALLEST / MAX_SIDE)
    cured = InputSize(*(-(-int(np.ceil(side * factor)) // STEP) * STEP for side in input_size))
    original = float(np.mean(sides[:, 1] < SMALLEST))
    middle = float(np.median(longest))
    remedies = []
    if max(cured) <= LARGEST_ADVISED:
        remedies.append(f"--image_size {_in_words(cured)} leaves {LEFT:.0%}")
    elif max(cured) <= MAX_SIDE:
        remedies.append(f"only --image_size {_in_words(cured)} would leave {LEFT:.0%}")
    else:
        remedies.append(f"no --image_size leaves {LEFT:.0%}: collect larger images of them")
    if middle >= MUCH_LARGER * max(input_size):
        remedies.append(
            f"tiles pay, as images are {middle:.0f} px long: --train.tiles {max(input_size)} (train) with --tiles"
            f" {max(input_size)} (infer, evaluate) leaves {original:.0%}"
        )
    elif original > LEFT:
        remedies.append(
            f"in the images themselves {original:.0%} are under {SMALLEST:g} px: no size brings back detail"
        )
    return "; ".join(remedies)


def _in_words(size: InputSize) -> str:
    return str(size.height) if size.height == size.width else f"[{size.height},{size.width}]"
