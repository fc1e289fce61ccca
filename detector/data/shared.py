"""Arrays where the processes that read images share them, however they are started."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


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


def share(values: np.ndarray) -> Tensor:
    """A copy in shared memory."""
    tensor = torch.from_numpy(np.array(values))  # `from_numpy` wants memory it may write
    with suppress(RuntimeError):  # /dev/shm is full: workers that are forked share it all the same
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
