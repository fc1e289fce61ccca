"""The size of the network input."""

import math
from typing import NamedTuple

STEP = 32
"""Height and width are multiples of this many pixels, the largest stride."""


class InputSize(NamedTuple):
    """Pixels of the network input, multiples of `STEP`."""

    height: int
    width: int

    @classmethod
    def of(cls, image_size: int | tuple[int, int]) -> "InputSize":
        """From what configurations and weights files hold: the side of a square, or (height, width)."""
        return cls(image_size, image_size) if isinstance(image_size, int) else cls(*image_size)

    def scaled(self, scale: float) -> "InputSize":
        """Both sides times `scale`, rounded to multiples of `STEP`, at least one."""
        height, width = (max(round(side * scale / STEP), 1) * STEP for side in self)
        return InputSize(height, width)

    def scales(self, spread: float) -> list[float]:
        """The scales from 1 - spread to 1 + spread that make the longer side a multiple of `STEP`, among them 1."""
        steps = max(self) // STEP
        lowest, highest = (round(steps * (1 + sign * spread), 6) for sign in (-1, 1))  # 6 * (1 - 0.5) is no 3.0000001
        return [step / steps for step in range(max(math.ceil(lowest), 1), math.floor(highest) + 1)]
