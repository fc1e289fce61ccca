"""The progress bar of a batch: images, images/s, what is left."""

from collections.abc import Hashable
from time import monotonic

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from detector.errors import printable
from detector.utils.terminal import Terminal

LINE_SECONDS = 30.0
"""How often a log gets a line, where there is no terminal for a bar."""


class BatchProgress:
    """A bar over the images of this run, and their counts."""

    def __init__(self, images: int) -> None:
        self.images = 0
        self.errors = 0
        self._images = images
        self._start = self._shown = monotonic()
        self._under_way: dict[Hashable, int] = {}
        self._console = Terminal(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("", total=images, speed="")

    def __enter__(self) -> "BatchProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def images_per_second(self) -> float:
        return (self.images + sum(self._under_way.values())) / max(monotonic() - self._start, 1e-9)

    def under_way(self, worker: Hashable, images: int) -> None:
        """A worker has done that many images of the job that it is at."""
        self._under_way[worker] = images
        self._show()

    def done(self, worker: Hashable, images: int, errors: int) -> None:
        """A worker's job is done, with errors in some images."""
        self._under_way.pop(worker, None)
        self.images += images
        self.errors += errors
        self._show()

    def say(self, line: str) -> None:
        """Print a line above the bar, as it is."""
        self._console.print(Text(printable(line)), soft_wrap=True)

    def _show(self) -> None:
        completed = self.images + sum(self._under_way.values())
        if not self._console.is_terminal and monotonic() > self._shown + LINE_SECONDS:
            self._shown = monotonic()
            self.say(f"{completed} of {self._images} images, {self.images_per_second:.1f} images/s")
        self._bar.update(self._task, completed=completed, speed=f"{self.images_per_second:.1f} images/s")
