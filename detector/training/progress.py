"""The progress bar of a run, and the line that stays for each epoch."""

from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from detector.training.checkpoint import EpochStats
from detector.utils.terminal import Terminal


def metric_text(value: float | None) -> str:
    """A metric in a line; a dash where there was nothing to find."""
    return "–" if value is None else f"{value:.3f}"


class RunProgress:
    """A bar over the whole run with images/s, time left, losses and the last AP; a line stays for each epoch."""

    def __init__(self, epochs: int, batches: int, done_batches: int) -> None:
        self._batches = batches
        self._epochs = epochs
        self._last_ap = metric_text(None)
        self._next_status = 0
        self._console = Terminal()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self._console,
        )
        self._task: TaskID = self._bar.add_task("train", total=epochs * batches, completed=done_batches, status="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step_done(self, epoch: int, stats: EpochStats) -> None:
        """Move the bar; the losses are fetched from the device only every few batches."""
        done = (epoch - 1) * self._batches + stats.batches
        self._bar.update(self._task, completed=done, description=f"epoch {epoch}/{self._epochs}")
        if stats.passes and (stats.batches >= self._next_status or stats.batches == self._batches):
            self._next_status = stats.batches + 10
            box, classification, distribution = stats.mean_losses()
            losses_text = f"box {box:.3f}  cls {classification:.3f}  dfl {distribution:.3f}"
            status = f"{stats.images_per_second():.1f} images/s  {losses_text}  AP {self._last_ap}"
            self._bar.update(self._task, status=status)

    def epoch_done(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        self._last_ap = metric_text(row["AP"])
        self._next_status = 0
        self._bar.update(self._task, status=f"AP {self._last_ap}")
        skipped = f"  {row['skipped_steps']} steps skipped" if row["skipped_steps"] else ""
        self.say(
            f"epoch {row['epoch']:>3}/{self._epochs}  box {metric_text(row['box_loss'])}  cls {metric_text(row['class_loss'])}"
            f"  dfl {metric_text(row['distribution_loss'])}  AP {self._last_ap}  AP50 {metric_text(row['AP50'])}"
            f"  {row['images_per_second']:.1f} images/s  {row['seconds']:.0f} s{skipped}"
        )

    def say(self, text: str) -> None:
        """Print a line above the bar, as it is: rich would read brackets as markup and words between colons as emoji."""
        self._console.print(Text(text), soft_wrap=True)
