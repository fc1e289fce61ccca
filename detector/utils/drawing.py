"""Charts and images of a page: each is a file in a folder, and HTML that shows it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from detector.utils import page
from detector.utils.charts import save_chart
from detector.utils.fileio import atomic_write


@dataclass(frozen=True)
class Drawing:
    """Writes images into `folder` and gives the HTML that shows them."""

    folder: Path

    def chart(self, name: str, figure: Figure, caption: str) -> str:
        path = self.folder / f"{name}.png"
        save_chart(figure, path)
        return page.image(path, caption)

    def photograph(self, name: str, image: UInt8[np.ndarray, "height width 3"], caption: str) -> str:
        """JPEG, a tenth of what photographs take as PNG."""
        path = self.folder / f"{name}.jpg"
        encoder = Image.fromarray(image)
        atomic_write(path, lambda temporary: encoder.save(temporary, format="JPEG", quality=88))
        return page.image(path, caption)
