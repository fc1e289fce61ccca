"""Where the metrics and images of a run go: metrics.jsonl and metrics.csv always, and the loggers that are asked for.

To add a logger: a class with the methods of `Logger`, and an entry in `LOGGERS`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from detector.errors import ConfigError, WriteError
from detector.training.logs import read_metrics, write_metrics

RUN_ROWS = ("step", "learning_rate", "skipped_steps", "images_per_second", "seconds")
"""Entries of an epoch's row that are neither a loss nor a validation metric."""


@runtime_checkable
class Logger(Protocol):
    """What the training loop calls. Raises WriteError where something can't be written."""

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch: numbers by name, None where there was nothing to measure, and `epoch`."""

    def log_image(self, name: str, image: UInt8[np.ndarray, "height width 3"], epoch: int) -> None:
        """Add an RGB image."""

    def close(self) -> None:
        """Finish writing."""


class FileLogger:
    """metrics.jsonl and metrics.csv in the run's folder."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def log_metrics(self, row: dict[str, Any]) -> None:
        write_metrics(self._out, [*read_metrics(self._out), row])

    def log_image(self, name: str, image: UInt8[np.ndarray, "height width 3"], epoch: int) -> None:
        """Files hold no images; the report draws them."""

    def close(self) -> None:
        """Each row is complete when it is written."""


class TensorBoardLogger:
    """An event file in the folder tensorboard; it forgets the epochs after `done_epochs` of an attempt before."""

    def __init__(self, out: Path, done_epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._folder = out / "tensorboard"
        with self._writing():
            self._events = SummaryWriter(str(self._folder), purge_step=done_epochs + 1 if done_epochs else 0)

    def log_metrics(self, row: dict[str, Any]) -> None:
        with self._writing():
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    group = "loss" if name.endswith("_loss") else "run" if name in RUN_ROWS else "validation"
                    self._events.add_scalar(f"{group}/{name}", value, row["epoch"])
            self._events.flush()

    def log_image(self, name: str, image: UInt8[np.ndarray, "height width 3"], epoch: int) -> None:
        with self._writing():
            self._events.add_image(name, image, epoch, dataformats="HWC")
            self._events.flush()

    def close(self) -> None:
        with self._writing():
            self._events.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise WriteError(f"{self._folder}: can't be written ({reason}); free some space there") from error


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {"tensorboard": TensorBoardLogger}
"""Logger by its name in train.loggers, made with the run's folder and the number of epochs that are done."""


class RunLog:
    """All loggers of a run as one."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def log_metrics(self, row: dict[str, Any]) -> None:
        for logger in self._loggers:
            logger.log_metrics(row)

    def log_image(self, name: str, image: UInt8[np.ndarray, "height width 3"], epoch: int) -> None:
        for logger in self._loggers:
            logger.log_image(name, image, epoch)


def require_loggers(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown name."""
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"train.loggers: there is no logger {name!r}; the loggers are {', '.join(LOGGERS)}")


@contextmanager
def open_log(names: Sequence[str], out: Path, done_epochs: int) -> Iterator[RunLog]:
    """The files and the loggers of these names, closed at the end of the block."""
    with ExitStack() as stack:
        loggers: list[Logger] = [FileLogger(out), *(LOGGERS[name](out, done_epochs) for name in names)]
        for logger in loggers:
            stack.callback(logger.close)
        yield RunLog(loggers)
