"""What two splits have in common that they should not, and what they lack."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from detector.data.coco import CocoDataset

NAMES_SHOWN = 5


def doubts(train: CocoDataset, val: CocoDataset) -> Iterator[str]:
    """A line for classes without objects to learn from, and one for validation images that are training images too."""
    counts = train.objects_per_class()
    missing = [name for name, count in zip(train.categories.names, counts, strict=True) if count == 0]
    if missing and any(counts):
        names = ", ".join(map(repr, missing[:NAMES_SHOWN])) + (", …" if len(missing) > NAMES_SHOWN else "")
        yield f"{train.annotations_path}: classes without objects, which can't be learned: {len(missing)} ({names})"
    shared = shared_images(train, val)
    if shared:
        yield (
            f"{val.annotations_path}: validation images that are training images too, so that AP is too high:"
            f" {len(shared)} of {len(val)}, the first: {val.file_name(shared[0])!r}"
        )


def shared_images(train: CocoDataset, val: CocoDataset) -> list[int]:
    """The indices of the images of `val` that are one file with an image of `train`, or have the same bytes.

    Only files of equal length are read, and none that is elsewhere.
    """
    if not (isinstance(train.images_folder, Path) and isinstance(val.images_folder, Path)):
        places = {train.image(index) for index in range(len(train))}
        return [index for index in range(len(val)) if val.image(index) in places]
    known, found = ([dataset.path(index).stat() for index in range(len(dataset))] for dataset in (train, val))
    files = {(each.st_dev, each.st_ino) for each in known}
    shared = {index for index, each in enumerate(found) if (each.st_dev, each.st_ino) in files}
    lengths = {each.st_size for index, each in enumerate(found) if index not in shared}
    digests = {_digest(train.path(index)) for index, each in enumerate(known) if each.st_size in lengths}
    lengths = {each.st_size for each in known}
    copies = {index for index, each in enumerate(found) if index not in shared and each.st_size in lengths}
    return sorted(shared | {index for index in copies if _digest(val.path(index)) in digests})


def _digest(path: Path) -> bytes | Path:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:  # it will be among the unreadable images
        return path
