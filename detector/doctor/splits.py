"""Images that are the same, or nearly, in two splits or twice in one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from detector.doctor.findings import EXAMPLES, Example, Finding, Severity, View
from detector.doctor.hashes import Fingerprint, close_pairs, likeness

SAME_BITS, NEAR_BITS = 2, 6
"""Different bits of the hashes of images that are the same but for their compression, and nearly the same."""
SAME_LIKENESS, NEAR_LIKENESS, NEAR_SIDE = 0.99, 0.9, 16
"""Correlation of thumbnails of such images, and the side in pixels to which they are reduced for the latter."""


class Known(NamedTuple):
    """An image with its fingerprint. source: the split, or the folder, that it belongs to."""

    source: str
    name: str
    view: View
    fingerprint: Fingerprint


class Twins(NamedTuple):
    """Two images that look alike; same: but for compression, size, brightness and contrast."""

    one: Known
    other: Known
    same: bool


def find_twins(images: Sequence[Known]) -> list[Twins]:
    """The pairs of images that are the same or nearly so, in the order of the images."""
    bits = np.array([image.fingerprint.bits for image in images], np.uint64)
    twins = []
    for one, other in close_pairs(bits, NEAR_BITS).tolist():
        a, b = images[one].fingerprint, images[other].fingerprint
        if likeness(a, b, NEAR_SIDE) >= NEAR_LIKENESS:
            same = int(a.bits ^ b.bits).bit_count() <= SAME_BITS and likeness(a, b) >= SAME_LIKENESS
            twins.append(Twins(images[one], images[other], same))
    return twins


def check_splits(images: Sequence[Known]) -> Iterator[Finding]:
    """Images that look alike. images: of all splits, train first."""
    twins = find_twins(images)
    across = [each for each in twins if each.one.source != each.other.source]
    kept_apart = "keep them, and all images of one source, in one split: AP is too high"
    same = [each for each in across if each.same]
    if same:
        yield _finding("leak-same", "error", "images that look the same as one of another split", kept_apart, same)
    near = [each for each in across if not each.same]
    if near:
        yield _finding("leak-near", "warning", "images that look nearly like one of another split", kept_apart, near)
    within = [each for each in twins if each.one.source == each.other.source and each.same]
    if within:
        what, remedy = (
            "images that look the same as another of their split",
            "remove copies, or label both alike; shots of one scene may stay",
        )
        yield _finding("image-doubled", "note", what, remedy, within)


def check_against(images: Sequence[Known], others: Sequence[Known], folder: str) -> Iterator[Finding]:
    """Images that look like one of `others`, whose source is `folder`."""
    twins = find_twins([*others, *images])
    pairs = [each for each in twins if each.one.source == folder != each.other.source]
    remedy = "remove them on one side if one is to be tested, the other learned"
    for code, what, same in (
        ("overlap-same", f"images that look the same as one in {folder}", True),
        ("overlap-near", f"images that look nearly like one in {folder}", False),
    ):
        if some := [each for each in pairs if each.same == same]:
            yield _finding(code, "warning", what, remedy, some)


def _finding(code: str, severity: Severity, what: str, remedy: str, twins: Sequence[Twins]) -> Finding:
    """Counted in the images that come second."""
    names: dict[str, set[str]] = {}
    for each in twins:
        names.setdefault(each.other.source, set()).add(each.other.name)
    shown = {(each.other.source, each.other.name): each for each in reversed(twins)}
    examples = tuple(
        Example(f"{a.source} {a.name}, {b.source} {b.name}", (a.view, b.view))
        for a, b, _ in list(reversed(shown.values()))[:EXAMPLES]
    )
    counts = {source: len(each) for source, each in names.items()}
    return Finding(code, severity, what, counts, remedy, examples)
