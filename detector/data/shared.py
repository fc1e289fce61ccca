"""Arrays where the processes that read images share them, however they are started."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from detector.data.annotation_file import AnnotationFile
from detector.data.outlines import Outlines, polygons_of


@dataclass(frozen=True, eq=False)
class SharedRows:
    """Rows grouped by image, in shared memory: image `i` has `rows[starts[i] : starts[i + 1]]`."""

    rows: Tensor
    starts: Tensor

    @classmethod
    def share(cls, rows: np.ndarray, counts: Int64[np.ndarray, " images"]) -> "SharedRows":
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(share(rows), share(starts))

    def __getitem__(self, index: int) -> np.ndarray:
        """A copy of the rows of one image."""
        start, end = self.starts[index : index + 2].tolist()
        return self.rows[start:end].numpy().copy()


@dataclass(frozen=True, eq=False)
class SharedPolygons:
    """Polygons of the objects of each image, in shared memory. rings: see `Outlines.of_rings`."""

    points: SharedRows
    rings: SharedRows

    @classmethod
    def share(
        cls,
        file: AnnotationFile,
        objects: Int64[np.ndarray, " objects"],
        boxes: Float32[np.ndarray, "annotations 4"],
        counts: Int64[np.ndarray, " images"],
    ) -> "SharedPolygons":
        """objects: the places of their annotations, image by image; boxes: xyxy pixels; counts: objects of each image."""
        points: list[np.ndarray] = [np.zeros((0, 2), np.float32)]
        rings: list[tuple[int, int, int]] = []
        images = np.repeat(np.arange(len(counts)), counts)
        numbers = np.arange(len(objects)) - np.repeat(np.cumsum(counts) - counts, counts)
        for place, image, number in zip(objects.tolist(), images.tolist(), numbers.tolist(), strict=True):
            found = polygons_of(file.content["annotations"][place].get("segmentation"), boxes[place])
            points += found
            rings += [(image, number, len(each)) for each in found]
        image_of, owners, lengths = np.array(rings, np.int64).reshape(-1, 3).T
        of_image = np.bincount(image_of, weights=lengths, minlength=len(counts)).astype(np.int64)
        ring_counts = np.bincount(image_of, minlength=len(counts))
        return cls(
            SharedRows.share(np.concatenate(points), of_image),
            SharedRows.share(np.column_stack((owners, lengths)), ring_counts),
        )

    def __getitem__(self, index: int) -> Outlines:
        """Those of one image."""
        return Outlines.of_rings(self.points[index], self.rings[index])


def share(values: np.ndarray) -> Tensor:
    """A copy in shared memory."""
    tensor = torch.from_numpy(np.array(values))  # `from_numpy` wants memory it may write
    with suppress(RuntimeError):  # /dev/shm is full: workers that are forked share it all the same
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
