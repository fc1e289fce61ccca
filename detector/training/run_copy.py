"""The copy of a run behind a URL, from which it goes on where its folder is gone (`train.checkpoint_url`)."""

import json
from pathlib import Path
from typing import Any

import torch

from detector.errors import WeightsError
from detector.training.checkpoint import read_checkpoint
from detector.training.logs import launcher
from detector.training.resume import require_same
from detector.utils.fileio import atomic_write, temporary_dir
from detector.utils.stores import Store

CHECKPOINT = "last.pt"
FILES = (
    "config.yaml",
    "environment.json",
    "skipped_steps.jsonl",
    "metrics.jsonl",
    "metrics.csv",
    "best.safetensors",
    "last.safetensors",
    CHECKPOINT,
)
"""What is copied, in this order: the checkpoint says how far the run is, so what belongs to it is there before it."""


class RunCopy:
    """The copy, written by the main process. Methods raise DetectorError kinds that name the URL."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._copied: dict[str, tuple[int, ...]] = {}

    def __str__(self) -> str:
        return str(self._store)

    @property
    def has_checkpoint(self) -> bool:
        return self._store.exists(CHECKPOINT)

    def is_own(self) -> bool:
        """Whether what has now started this process again has begun the run."""
        if not self.has_checkpoint or not self._store.exists("environment.json"):
            return False
        try:
            content = json.loads(self._store.read("environment.json"))
        except ValueError:
            return False
        return isinstance(content, dict) and content.get("launcher") == launcher()

    def update(self, out: Path) -> None:
        """Copy the files of the run in `out` that have changed since the last time."""
        for name in FILES:
            if not (out / name).exists():
                continue
            status = (out / name).stat()
            state = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._copied.get(name) != state:
                self._store.put(out / name, name)
                self._copied[name] = state

    def bring(self, out: Path) -> None:
        """Make the folder `out` what is copied, unless it is as far itself. Raises ConfigError or DataError if they are of two
        runs."""
        if not self.has_checkpoint:
            return
        with temporary_dir(out) as folder:
            checkpoint = folder / CHECKPOINT
            self._store.get(CHECKPOINT, checkpoint)
            there, here = self._content(checkpoint), _content_or_none(out / CHECKPOINT)
            if here is not None:
                require_same(there["provenance"], here["provenance"], str(self))
                if here.get("step", 0) >= there.get("step", 0):
                    return
            for name in filter(self._store.exists, FILES[:-1]):
                atomic_write(out / name, lambda temporary, name=name: self._store.get(name, temporary))  # type: ignore[misc]
            atomic_write(out / CHECKPOINT, checkpoint.replace)
        print(f"the run is brought to {out} from {self}")

    def _content(self, checkpoint: Path) -> dict[str, Any]:
        try:
            return read_checkpoint(checkpoint, torch.device("cpu"))
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(checkpoint), f"{self}/{CHECKPOINT}")) from error


def _content_or_none(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return read_checkpoint(checkpoint, torch.device("cpu"))
    except WeightsError:  # none, or damaged
        return None


def bring_config(url: str, out: Path) -> None:
    """Write the configuration of the run that is copied to `url` into `out`, if there is one."""
    store = Store(url)
    if store.exists("config.yaml"):
        atomic_write(out / "config.yaml", lambda temporary: store.get("config.yaml", temporary))
