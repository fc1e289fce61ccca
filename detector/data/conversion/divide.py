"""Divides images into splits: the same share of every class in each, and what belongs together in one.

The order is that of iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data",
ECML PKDD 2011). A group of images holds many classes, so it goes where all of them fit best, not its rarest alone.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence

from detector.data.conversion.content import LabeledImage, Report
from detector.data.layouts import SPLITS, Split
from detector.errors import ConfigError, DataError

EMPTY = ""
"""Stands among the classes of an image without objects."""


def divided(
    images: Sequence[LabeledImage], fractions: Sequence[float], pattern: str | None, seed: int, report: Report
) -> dict[Split, list[LabeledImage]]:
    """The images of each split, in the given order. fractions: of the images, for train, val and test, with the sum 1; pattern:
    see `_groups`. Raises ConfigError or DataError if the pattern fits no name, or a split would be empty."""
    groups = _groups(images, pattern, report)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed} {key}".encode("utf-8", "surrogatepass")).digest())
    members = [[images[index] for index in groups[key]] for key in order]
    split_of = _stratified([_classes(group) for group in members], [len(group) for group in members], fractions)
    number_of = {index: split_of[place] for place, key in enumerate(order) for index in groups[key]}
    splits: dict[Split, list[LabeledImage]] = {}
    for number, split in enumerate(SPLITS[: len(fractions)]):
        splits[split] = [image for index, image in enumerate(images) if number_of[index] == number]
        if not splits[split]:
            what = "images" if pattern is None else "groups of images"
            raise DataError(
                f"--split: {len(groups)} {what} are too few: none is in the {split} split of {fractions[number]:g}; give"
                " it a larger fraction"
            )
    return splits


def _groups(images: Sequence[LabeledImage], pattern: str | None, report: Report) -> dict[str, list[int]]:
    """The indices of the images that must stay together, by a key: what the pattern finds in their names, or its groups in
    parentheses; an image that it doesn't fit is a group of its own."""
    groups: dict[str, list[int]] = {}
    seen: Counter[str] = Counter()
    unmatched = 0
    for index, image in enumerate(images):
        match = re.search(pattern, image.name) if pattern is not None else None
        if match is not None:
            key = repr(match.groups() or match[0])
        else:
            unmatched += 1
            key = f"{image.name} {seen[image.name]}"  # merged datasets may use a name twice
            seen[image.name] += 1
        groups.setdefault(key, []).append(index)
    if pattern is not None and unmatched == len(images):
        raise ConfigError(f"group: {pattern!r} fits no file name, the first of which is {images[0].name!r}; correct it")
    if pattern is not None:
        report.noticed.append(f"--group: {len(images) - unmatched} images in {len(groups) - unmatched} groups")
        if unmatched:
            report.noticed.append(f"--group: images whose name it doesn't fit, each a group of its own: {unmatched}")
    return groups


def _classes(group: Sequence[LabeledImage]) -> Counter[str]:
    """How many images of a group hold each class."""
    return Counter(name for image in group for name in {each.name for each in image.objects} or {EMPTY})


def _stratified(classes: Sequence[Counter[str]], sizes: Sequence[int], fractions: Sequence[float]) -> list[int]:
    """The split of each group. classes: the number of its images that hold each class; sizes: its number of images.

    The class with the fewest images left is dealt first, its largest groups first, each to the split that it fits best.
    """
    totals: Counter[str] = Counter()
    for counts in classes:
        totals.update(counts)
    holders: dict[str, list[int]] = {name: [] for name in totals}
    for group, counts in enumerate(classes):
        for name in counts:
            holders[name].append(group)
    left = Counter(totals)
    held: list[Counter[str]] = [Counter() for _ in fractions]
    images, whole = [0] * len(fractions), sum(sizes)
    split_of: dict[int, int] = {}

    def misfit(split: int, group: int) -> float:
        """By how much the squared distance of a split from its share grows with the group, over all its classes, each counted
        in fractions of its images, and over the images, which weigh as much as all classes."""
        share = fractions[split]
        terms = [_growth(held[split][name], count, totals[name], share) for name, count in classes[group].items()]
        return math.fsum([*terms, len(totals) * _growth(images[split], sizes[group], whole, share)])

    while holders:
        rarest = min(holders, key=lambda name: (left[name], name))
        for group in sorted(holders.pop(rarest), key=lambda group: -classes[group][rarest]):
            if group not in split_of:
                split = min(range(len(fractions)), key=lambda split: (misfit(split, group), split))
                split_of[group] = split
                images[split] += sizes[group]
                held[split].update(classes[group])
                left.subtract(classes[group])
    return [split_of[group] for group in range(len(classes))]


def _growth(held: int, more: int, total: int, share: float) -> float:
    """The growth of (held - share * total)^2 / share with `more`, in units of total^2."""
    return (2 * (held - share * total) * more + more * more) / (share * total * total)
