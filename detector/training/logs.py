"""Files of a run: its metrics, lines of JSON, and its environment."""

import csv
import io
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from detector.errors import DISTRIBUTION, without_secrets
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
        "command": [without_secrets(each) for each in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": processor_name(device),
        "cpu_threads": torch.get_num_threads(),
        "launcher": launcher(),
        "packages": versions,
    }


LAUNCHER = "DETECTOR_LAUNCHER"
"""Variable with the name of what started this process, where that is no parent process."""


def launcher() -> str:
    """What started this process: torchrun or Ray, where they did."""
    return os.environ.get(LAUNCHER) or f"{platform.node()} {os.getppid()}"


def on_ray() -> bool:
    """Whether Ray started this process."""
    return launcher().startswith("Ray ")


def processor_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read_environment(out: Path) -> dict[str, Any]:
    """What `environment` said of the run in `out`; empty, with a line that says so, if the file is damaged."""
    path = out / "environment.json"
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    print(f"{path}: damaged; going on without it")
    return {}


def read_lines(path: Path, *numbers: str) -> list[dict[str, Any]]:
    """The entries of a file with a line of JSON each, none if there is no such file. Lines that are damaged or lack one of these
    numbers are skipped, and a line counts them."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and all(isinstance(entry.get(name), int | float) for name in numbers):
                entries.append(entry)
    if damaged := len(lines) - len(entries):
        print(f"{path}: {damaged} of {len(lines)} lines are damaged; going on without them")
    return entries


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, one an epoch."""
    return read_lines(out / "metrics.jsonl", "epoch")


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add one line of JSON; the file never ends in half a line."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, before + json.dumps(entry) + "\n")


def drop_skipped_after(out: Path, step: int) -> None:
    """Take back the skipped steps that a resumed run does again."""
    path = out / "skipped_steps.jsonl"
    if path.exists():
        _write_lines(path, [entry for entry in read_lines(path, "step") if entry["step"] <= step])


def write_metrics(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write metrics.jsonl and the same as metrics.csv, each the old file or the complete new one."""
    _write_lines(out / "metrics.jsonl", rows)
    table = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # of all rows, in the order they come in
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "metrics.csv", table.getvalue())


def append_metrics(out: Path, row: dict[str, Any]) -> None:
    """Add the row of an epoch: numbers by name, None where there was nothing to measure, and `epoch`."""
    write_metrics(out, [*read_metrics(out), row])


def drop_metrics_after(out: Path, epoch: int) -> None:
    """Take back the rows of epochs that a resumed run does again."""
    if (out / "metrics.jsonl").exists():
        write_metrics(out, [row for row in read_metrics(out) if row["epoch"] <= epoch])


def _write_lines(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in entries))
