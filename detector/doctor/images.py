"""What is wrong with the images of a split, each opened and decoded once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from detector.data.workers import batches_of, start_worker, worker_count
from detector.doctor.columns import Columns
from detector.doctor.findings import EXAMPLES, Example, Finding
from detector.doctor.hashes import Fingerprint, fingerprint
from detector.images.read import RemoteFile, UnreadableImageError, decode_image, turn

BATCH = 16
TURNS_SIDES = 5
"""First EXIF orientation that makes height of width."""


class Look(NamedTuple):
    """What opening an image file gave.

    size: (width, height) of the stored pixels; orientation: that of its EXIF tag, 1..8; fingerprint: of the image as it is
    shown; problem: why it can't be read, else empty.
    """

    size: tuple[int, int]
    orientation: int
    fingerprint: Fingerprint | None
    problem: str = ""

    @property
    def shown_size(self) -> tuple[int, int]:
        return self.size if self.orientation < TURNS_SIDES else self.size[::-1]


class ImageFiles(Dataset[Look]):
    """Image files, each as a `Look`."""

    def __init__(self, files: Sequence[Path | RemoteFile]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Look:
        try:
            stored, orientation = decode_image(self._files[index])
        except UnreadableImageError as error:
            return Look((0, 0), 1, None, str(error))
        size = stored.shape[1], stored.shape[0]
        return Look(size, orientation, fingerprint(np.ascontiguousarray(turn(stored, orientation))))


def look_at(files: Sequence[Path | RemoteFile]) -> list[Look]:
    """Open each image, in several processes where there are many."""
    workers = worker_count(-1) if len(files) > 4 * BATCH else 0
    loader = DataLoader(ImageFiles(files), BATCH, num_workers=workers, collate_fn=list, worker_init_fn=start_worker)
    return [look for batch in batches_of(loader) for look in batch]


def check_images(columns: Columns, looks: dict[int, Look]) -> Iterator[Finding]:
    """Files that can't be read, or are not of the size or not turned as the annotations say. looks: by the image's entry."""
    unreadable = [image for image, look in looks.items() if look.problem]
    if unreadable:
        examples = tuple(Example(looks[image].problem) for image in unreadable[:EXAMPLES])
        what, remedy = (
            "images that can't be read",
            "bring them anew or remove them; training skips at most --max_unreadable",
        )
        yield Finding("image-unreadable", "error", what, columns.counts(len(unreadable)), remedy, examples)
    wrong, stored, unsure = [], [], []
    for image, look in looks.items():
        width, height = columns.sizes[image].tolist()
        if look.problem or not (width and height):
            continue
        if (width, height) not in (look.size, look.shown_size):
            wrong.append(image)
        elif (width, height) != look.shown_size:
            stored.append(image)
        elif look.orientation != 1 and look.size == look.shown_size:
            unsure.append(image)
    boxes = _boxes_by_image(columns)
    if wrong:
        what = "images of another size than annotated, which training can't read"
        remedy = "correct width and height if the boxes fit the file, else bring the file that was labeled"
        examples = tuple(
            Example(
                f"{columns.names[image]}: {_in_words(looks[image].shown_size)}, annotated as"
                f" {_in_words(tuple(columns.sizes[image].tolist()))}",
                (columns.view(image, boxes.get(image, []))._replace(size=None),),
            )
            for image in wrong[:EXAMPLES]
        )
        yield Finding("image-size", "error", what, columns.counts(len(wrong)), remedy, examples)
    if stored:
        what = (
            "images that viewers turn by their EXIF tag, annotated with the size before that: boxes are taken so, too"
        )
        remedy = (
            "look whether the boxes fit; if not, they were drawn on the turned images: write their width and height"
        )
        yield _turned(columns, "image-exif", what, remedy, stored, boxes, looks)
    if unsure:
        what = "images that viewers turn or mirror by an EXIF tag that leaves no trace in the annotated size: boxes are taken so"
        remedy = "look whether the boxes fit; if not, remove the tag from the files"
        yield _turned(columns, "image-exif-mirrored", what, remedy, unsure, boxes, looks)


def _turned(
    columns: Columns,
    code: str,
    what: str,
    remedy: str,
    images: list[int],
    boxes: dict[int, list[int]],
    looks: dict[int, Look],
) -> Finding:
    examples = tuple(
        Example(
            f"{columns.names[image]}: EXIF orientation {looks[image].orientation}",
            (columns.view(image, boxes.get(image, [])),),
        )
        for image in images[:EXAMPLES]
    )
    return Finding(code, "warning", what, columns.counts(len(images)), remedy, examples)


def _boxes_by_image(columns: Columns) -> dict[int, list[int]]:
    """The annotations of each image, by their places."""
    found: dict[int, list[int]] = {}
    for annotation, image in enumerate(columns.image_of.tolist()):
        found.setdefault(image, []).append(annotation)
    return found


def _in_words(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
