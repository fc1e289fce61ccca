"""What is wrong with the classes of a dataset: their names and ids, and how many objects each has in each split."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from detector.doctor.columns import MISSING, Columns
from detector.doctor.findings import EXAMPLES, Example, Finding

BACKGROUND = {"background", "bg", "unlabeled", "unlabelled", "none", "nothing", "noobject", "void"}
"""Names of classes without capitals, spaces and marks."""
SHORTEST_MISSPELLED = 5
"""Letters of a word from which on one letter makes a slip rather than another word."""
UNEVEN = 50.0
"""Objects of the largest class for one of the smallest from which on a dataset is called uneven."""
FEW = 10
"""Objects in the training split below which a class can hardly be learned."""


def check_classes(splits: Sequence[Columns], numbered: bool) -> Iterator[Finding]:
    """Faults of the classes, counted in objects that are no crowds.

    numbered: whether the ids are numbers that the file does not choose, as in YOLO labels and Pascal VOC.
    """
    first = splits[0]
    names = dict(zip(first.category_ids.tolist(), first.category_names, strict=True))
    objects: dict[str, Counter[str]] = {each.split: _objects(each) for each in splits}
    yield from _different(splits)
    yield from _names(first, objects)
    if not numbered:
        yield from _ids(first.split, sorted(names.keys() - {MISSING}))
    yield from _missing(list(names.values()), objects)
    yield from _uneven(objects)


def _objects(columns: Columns) -> Counter[str]:
    """The number of objects of each class by name."""
    labels = columns.label_of[(columns.label_of >= 0) & ~columns.crowd]
    counts = np.bincount(labels, minlength=len(columns.category_names)).tolist()
    found: Counter[str] = Counter()
    for name, count in zip(columns.category_names, counts, strict=True):
        found[name] += count
    return found


def _different(splits: Sequence[Columns]) -> Iterator[Finding]:
    """Classes of later splits that the first one has not, or with another id."""
    known = set(zip(splits[0].category_ids.tolist(), splits[0].category_names, strict=True))
    for other in splits[1:]:
        own = zip(other.category_ids.tolist(), other.category_names, strict=True)
        unknown = [f"{name!r} with id {category_id}" for category_id, name in own if (category_id, name) not in known]
        if unknown and other.category_names != splits[0].category_names:
            what = f"classes that the {splits[0].split} split has not, or has with another id"
            remedy = "give all splits the same list of classes"
            yield Finding("class-differs", "error", what, other.counts(len(unknown)), remedy, _shown(unknown))


def _shown(names: Sequence[str]) -> tuple[Example, ...]:
    return tuple(Example(name) for name in names[:EXAMPLES])


def _names(columns: Columns, objects: dict[str, Counter[str]]) -> Iterator[Finding]:
    names = columns.category_names
    total = sum(objects.values(), Counter())
    background = [name for name in names if is_background(name)]
    if background:
        what = "classes that stand for the background"
        unused = not any(total[name] for name in background)
        remedy = "remove it, with its annotations: what has no box is background"
        counts = columns.counts(len(background))
        yield Finding("class-background", "warning", what, counts, remedy, _shown(background), mended=unused)
    alike = [f"{a!r} and {b!r}" for a, b in combinations(names, 2) if _alike(a, b)]
    if alike:
        what, remedy = (
            "pairs of classes spelled alike",
            "if they are one class, give all of its annotations one category_id",
        )
        yield Finding("class-alike", "warning", what, {columns.split: len(alike)}, remedy, _shown(alike))


def is_background(name: str) -> bool:
    """Whether a class of this name stands for what is no object."""
    return _plain(name) in BACKGROUND


def _plain(name: str) -> str:
    """The name without capitals, spaces and marks."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _alike(one: str, other: str) -> bool:
    """Whether two names may be spellings of one: they differ in capitals, marks, an s at the end or one letter of a word."""
    a, b = _plain(one), _plain(other)
    if not a or not b:
        return one == other
    if a == b or a + "s" == b or b + "s" == a:
        return True
    words, others = (re.split(r"[\W_]+", name.casefold().strip()) for name in (one, other))
    if len(words) != len(others):
        return False
    different = [pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]]
    return len(different) == 1 and _one_slip(*different[0])


def _one_slip(one: str, other: str) -> bool:
    """Whether two words of letters are one letter, or two letters in the wrong order, apart."""
    if not (one.isalpha() and other.isalpha()) or min(len(one), len(other)) < SHORTEST_MISSPELLED:
        return False
    short, long = sorted((one, other), key=len)
    start = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    a, b = short[start:], long[start:]
    if len(long) == len(short):
        return a[1:] == b[1:] or (len(a) > 1 and a[0] == b[1] and a[1] == b[0] and a[2:] == b[2:])
    return len(long) == len(short) + 1 and a == b[1:]


def _ids(split: str, ids: Sequence[int]) -> Iterator[Finding]:
    if ids and ids[0] == 0:
        what, remedy = (
            "class ids that begin with 0",
            "nothing here; tools that take 0 for the background want them from 1",
        )
        yield Finding("class-id-0", "note", what, {split: 1}, remedy)
    gaps = [f"no id from {a + 1} to {b - 1}" for a, b in pairwise(ids) if b > a + 1]
    if gaps:
        what, remedy = "gaps in the class ids", "nothing here: the ids are kept; tools that number classes need a table"
        yield Finding("class-id-gap", "note", what, {split: len(gaps)}, remedy, _shown(gaps))


def _missing(names: Sequence[str], objects: dict[str, Counter[str]]) -> Iterator[Finding]:
    """Classes without objects in all splits, or in some."""
    total = sum(objects.values(), Counter())
    unused = [name for name in names if not total[name]]
    if unused:
        what, remedy = "classes without objects in any split", "label some, or remove the classes"
        yield Finding("class-unused", "warning", what, {"all": len(unused)}, remedy, _shown(unused))
    if "train" in objects and len(objects) > 1:
        unlearned = [name for name in total if total[name] and not objects["train"][name]]
        if unlearned:
            what, remedy = (
                "classes with objects, but none in train, which can't be learned",
                "move some images to train",
            )
            yield Finding("class-not-in-train", "warning", what, {"train": len(unlearned)}, remedy, _shown(unlearned))
    for split in ("val", "test"):
        if split in objects and objects.get("train"):
            unmeasured = [name for name in names if objects["train"][name] and not objects[split][name]]
            if unmeasured:
                what = "classes learned in train that have no object here, so that AP says nothing of them"
                remedy = "move some images there"
                yield Finding("class-not-measured", "note", what, {split: len(unmeasured)}, remedy, _shown(unmeasured))


def _uneven(objects: dict[str, Counter[str]]) -> Iterator[Finding]:
    split = "train" if "train" in objects else next(iter(objects))
    ranked = [(name, count) for name, count in objects[split].most_common() if count]
    if len(ranked) < 2:
        return
    most, largest = ranked[0]
    rare = [(name, count) for name, count in reversed(ranked) if count < FEW or largest >= UNEVEN * count]
    if rare:
        what = f"classes with less than {FEW} objects, or with less than one for {UNEVEN:g} of the largest class"
        remedy = "label more of them; --train.repeat_threshold 0.05 shows their images more often"
        shown = [f"{name}: {count} objects, {most} has {largest:,}" for name, count in rare]
        yield Finding("class-rare", "note", what, {split: len(rare)}, remedy, _shown(shown))
