"""The callbacks that have a name for --loggers: each hands a run's metrics, settings, images and weights to a tool.

To add one: a `Callback`, and an entry in `LOGGERS`. Its package is imported when the logger is made, before the training
begins; an error after that only turns it off.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detector.config import names_in
from detector.errors import ConfigError, missing_package
from detector.training.callbacks import Callback, EpochDone, Images, RunEnded, RunStarted
from detector.training.logs import read_environment
from detector.utils.fileio import write_json

RUN_ROWS = ("step", "learning_rate", "skipped_steps", "images_per_second", "seconds")
"""Entries of an epoch's row that are neither a loss nor a validation metric."""


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers in the row of an epoch, each name with its group, as in `loss/box_loss`."""
    groups = {name: "loss" if name.endswith("_loss") else "run" if name in RUN_ROWS else "validation" for name in row}
    return {f"{groups[name]}/{name}": value for name, value in row.items() if name != "epoch" and value is not None}


def known_run(out: Path, logger: str) -> str | None:
    """The id under which a logger's server has the run in `out`, if it has been logged before."""
    runs = read_environment(out).get("logged_as")
    known = runs.get(logger) if isinstance(runs, dict) else None
    return known if isinstance(known, str) else None


def remember_run(out: Path, logger: str, run_id: str) -> None:
    """Keep the id in environment.json, so that a resumed run goes on under it."""
    content = read_environment(out)
    runs = content.get("logged_as")
    known = runs if isinstance(runs, dict) else {}
    write_json(out / "environment.json", {**content, "logged_as": {**known, logger: run_id}})


class TensorBoardLogger(Callback):
    """An event file in the run's folder tensorboard; it forgets the epochs of an attempt before that are done again."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._open = SummaryWriter

    def run_started(self, event: RunStarted) -> None:
        done = event.done_epochs
        self._events = self._open(str(event.out / "tensorboard"), purge_step=done + 1 if done else 0)
        self._add_images(event.images, 0)

    def epoch_done(self, event: EpochDone) -> None:
        for name, value in scalars(event.metrics).items():
            self._events.add_scalar(name, value, event.epoch)
        self._add_images(event.images, event.epoch)

    def run_ended(self, _: RunEnded) -> None:
        self._events.close()

    def _add_images(self, images: Images, epoch: int) -> None:
        for name, image in images.items():
            self._events.add_image(name, image, epoch, dataformats="HWC")
        self._events.flush()


class MLflowLogger(Callback):
    """A run on the server of MLFLOW_TRACKING_URI, in the experiment of MLFLOW_EXPERIMENT_NAME; a finished run has its weights."""

    def __init__(self) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # its own 7 hold the training up for minutes when the server is gone
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        import mlflow

        self._mlflow = mlflow

    def run_started(self, event: RunStarted) -> None:
        known = known_run(event.out, "mlflow")
        run = self._mlflow.start_run(known, run_name=event.out.name, nested=True)
        if known is None:
            remember_run(event.out, "mlflow", run.info.run_id)
            self._mlflow.log_params(event.settings)
        self._log_images(event.images, 0)

    def epoch_done(self, event: EpochDone) -> None:
        self._mlflow.log_metrics(scalars(event.metrics), step=event.epoch)
        self._log_images(event.images, event.epoch)

    def run_ended(self, event: RunEnded) -> None:
        if event.status == "finished":
            self._mlflow.log_artifact(str(event.weights))
        self._mlflow.end_run({"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[event.status])

    def _log_images(self, images: Images, epoch: int) -> None:
        for name, image in images.items():
            self._mlflow.log_image(image, key=name, step=epoch, synchronous=True)


class WandbLogger(Callback):
    """A run of Weights & Biases as WANDB_MODE, WANDB_PROJECT and the like say; a finished run has its weights."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to the makers of wandb
        import wandb

        self._wandb = wandb

    def run_started(self, event: RunStarted) -> None:
        self._run = self._wandb.init(
            id=known_run(event.out, "wandb"),
            name=os.environ.get("WANDB_NAME", event.out.name),
            dir=os.environ.get("WANDB_DIR", str(event.out)),
            config=event.settings,
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(console="off"),
        )
        remember_run(event.out, "wandb", self._run.id)
        self._log({}, event.images, 0)

    def epoch_done(self, event: EpochDone) -> None:
        self._log(scalars(event.metrics), event.images, event.epoch)

    def run_ended(self, event: RunEnded) -> None:
        if event.status == "finished":  # later ones of a resumed run would take the place of the file
            weights = self._wandb.Artifact(f"weights-{self._run.id}", type="model")
            weights.add_file(str(event.weights), policy="immutable")  # without a copy of the file
            self._run.log_artifact(weights)
        self._run.finish(exit_code=0 if event.status == "finished" else 1)

    def _log(self, values: dict[str, float], images: Images, epoch: int) -> None:
        media = {name: self._wandb.Image(image) for name, image in images.items()}
        if values or media:
            self._run.log({**values, **media}, step=epoch, commit=True)


LOGGERS: dict[str, Callable[[], Callback]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MLflowLogger,
    "wandb": WandbLogger,
}
"""Logger by its name in --loggers, which is also that of the extra with its package."""


def make_loggers(names: Sequence[str] | str) -> list[Callback]:
    """The loggers of these names. Raises ConfigError for an unknown one, or one whose package is not installed."""
    wanted = list(dict.fromkeys(names_in(names)))
    for name in wanted:
        if name not in LOGGERS:
            raise ConfigError(f"--loggers: there is no logger {name!r}; the loggers are {', '.join(LOGGERS)}")
    loggers = []
    for name in wanted:
        try:
            loggers.append(LOGGERS[name]())
        except ImportError as error:
            raise missing_package(f"--loggers {name}", error, name) from error
    return loggers
