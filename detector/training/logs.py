"""What a run tells: a progress bar, a line an epoch, its metrics as files and in TensorBoard, and its environment."""

import csv
import io
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from detector.errors import WriteError
from detector.evaluation.coco_metrics import METRICS
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
        "device": processor_name(device),
        "cpu_threads": torch.get_num_threads(),
        "launcher": launcher(),
        "packages": versions,
    }


def launcher() -> str:
    """The process that started this one: torchrun, where it did."""
    return f"{platform.node()} {os.getppid()}"


def processor_name(device: torch.device) -> str:
    """The model of the card, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, one an epoch; none if it has no such file."""
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add one line of JSON; the file never ends in half a line."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, before + json.dumps(entry) + "\n")


def drop_lines(path: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Take lines of JSON out of a file, if it exists."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if not unwanted(json.loads(line))))


def write_metrics(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write metrics.jsonl and the same as metrics.csv, each the old file or the complete new one."""
    write_text(out / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    table = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # of all rows, in the order they come in
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "metrics.csv", table.getvalue())


def drop_metrics_after(out: Path, epoch: int) -> None:
    """Take back the rows of epochs that a resumed run does again."""
    if rows := read_metrics(out):
        write_metrics(out, [row for row in rows if row["epoch"] <= epoch])


class RunLog:
    """The metrics of a run: metrics.jsonl, metrics.csv and, in the folder tensorboard, an event file for TensorBoard.

    Open it with the number of epochs that are done: TensorBoard then forgets the later ones of the attempt before.
    Raises WriteError where a file can't be written.
    """

    def __init__(self, out: Path, done_epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._out = out
        self._folder = out / "tensorboard"
        with self._writing():
            self._events = SummaryWriter(str(self._folder), purge_step=done_epochs + 1 if done_epochs else 0)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing():
            self._events.close()

    def epoch(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch: numbers by name, None where there was nothing to measure, and `epoch`."""
        write_metrics(self._out, [*read_metrics(self._out), row])
        with self._writing():
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    group = "loss" if name.endswith("_loss") else "validation" if name in METRICS else "run"
                    self._events.add_scalar(f"{group}/{name}", value, row["epoch"])
            self._events.flush()

    def picture(self, name: str, picture: UInt8[np.ndarray, "height width 3"], epoch: int) -> None:
        """Show an RGB picture in TensorBoard."""
        with self._writing():
            self._events.add_image(name, picture, epoch, dataformats="HWC")
            self._events.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(
                f"{self._folder}: can't be written ({error.strerror or error}); free some space there"
            ) from error


def figure_text(value: float | None) -> str:
    """A metric in a line; a dash where there was nothing to find."""
    return "–" if value is None else f"{value:.3f}"


class RunProgress:
    """A bar over the whole run with images/s, time left, losses and the last AP; a line stays for each epoch."""

    def __init__(self, epochs: int, batches: int, done_batches: int) -> None:
        self._batches = batches
        self._epochs = epochs
        self._last_ap = figure_text(None)
        self._next_status = 0
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
        if tally.passes and (tally.batches >= self._next_status or tally.batches == self._batches):
            self._next_status = tally.batches + 10
            box, classification, distribution = tally.mean_losses()
            losses_text = f"box {box:.3f}  cls {classification:.3f}  dfl {distribution:.3f}"
            status = f"{tally.images_per_second():.1f} img/s  {losses_text}  AP {self._last_ap}"
            self._bar.update(self._task, status=status)

    def epoch_done(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        self._last_ap = figure_text(row["AP"])
        self._next_status = 0
        self._bar.update(self._task, status=f"AP {self._last_ap}")
        skipped = f"  {row['skipped_steps']} steps left out" if row["skipped_steps"] else ""
        self.console.print(
            f"epoch {row['epoch']:>3}/{self._epochs}  box {figure_text(row['box_loss'])}  cls {figure_text(row['class_loss'])}"
            f"  dfl {figure_text(row['distribution_loss'])}  AP {self._last_ap}  AP50 {figure_text(row['AP50'])}"
            f"  {row['images_per_second']:.1f} img/s  {row['seconds']:.0f} s{skipped}",
            highlight=False,
            soft_wrap=True,
        )
