"""Files of a run: its metrics, lines of JSON, and its environment."""

import csv
import io
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from detector.errors import DISTRIBUTION
from detector.utils.fileio import write_text

PACKAGES = (
    DISTRIBUTION,
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
    """The model of the GPU, or of the CPU."""
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
