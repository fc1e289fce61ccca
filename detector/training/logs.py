"""What a run tells: a progress bar, a line an epoch, metrics.jsonl, and the environment it ran in."""

import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from detector.fileio import write_text
from detector.training.checkpoint import EpochTally

PACKAGES = (
    "detector",
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "albumentations",
    "pycocotools",
    "pillow",
)


def environment(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the command: what somebody needs who repeats the run."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cpu_threads": torch.get_num_threads(),
        "packages": versions,
    }


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add one line of JSON; the file never ends in half a line."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, before + json.dumps(row) + "\n")


def append_skipped_step(path: Path, entry: dict[str, Any]) -> None:
    """Add one line of JSON about a step that was left out."""
    append_metrics(path, entry)


def drop_metrics_after(path: Path, epoch: int) -> None:
    """Take back the lines of epochs that a resumed run does again."""
    drop_lines(path, lambda row: row["epoch"] > epoch)


def drop_lines(path: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Take lines of JSON out of a file, if it exists."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if not unwanted(json.loads(line))))


def figure_text(value: float | None) -> str:
    """A metric in a line; a dash where there was nothing to find."""
    return "–" if value is None else f"{value:.3f}"


class RunProgress:
    """A bar over the whole run with images/s, time left, losses and the last AP; a line stays for each epoch."""

    def __init__(self, epochs: int, batches: int, done_batches: int) -> None:
        self._batches = batches
        self._epochs = epochs
        self._last_ap = figure_text(None)
        self.console = Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
        )
        self._task: TaskID = self._bar.add_task("train", total=epochs * batches, completed=done_batches, status="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step_done(self, epoch: int, tally: EpochTally) -> None:
        """Move the bar; the losses are fetched from the device only every few batches."""
        done = (epoch - 1) * self._batches + tally.batches
        self._bar.update(self._task, completed=done, description=f"epoch {epoch}/{self._epochs}")
        if tally.passes % 10 == 1 or tally.batches == self._batches:
            box, classification, distribution = tally.mean_losses()
            losses_text = f"box {box:.3f}  cls {classification:.3f}  dfl {distribution:.3f}"
            status = f"{tally.images_per_second():.1f} img/s  {losses_text}  AP {self._last_ap}"
            self._bar.update(self._task, status=status)

    def epoch_done(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        self._last_ap = figure_text(row["AP"])
        self._bar.update(self._task, status=f"AP {self._last_ap}")
        skipped = f"  {row['skipped_steps']} steps left out" if row["skipped_steps"] else ""
        self.console.print(
            f"epoch {row['epoch']:>3}/{self._epochs}  box {row['box_loss']:.3f}  cls {row['class_loss']:.3f}"
            f"  dfl {row['distribution_loss']:.3f}  AP {self._last_ap}  AP50 {figure_text(row['AP50'])}"
            f"  {row['images_per_second']:.1f} img/s  {row['seconds']:.0f} s{skipped}",
            highlight=False,
            soft_wrap=True,
        )
