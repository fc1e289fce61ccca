"""The work on a part, the same for every engine: detect in its images, publish its rows."""

import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from detector.batch.folder import folder_of
from detector.batch.plan import PARTS, Job, Part, part_name, text_of, weights_sha256
from detector.batch.table import Table, error_row, found_row, table_of, write_table
from detector.config import BatchConfig
from detector.errors import WeightsError
from detector.inference.detector import Detector
from detector.inference.sources import Source
from detector.inference.streaming import stream
from detector.utils.memory import tune_malloc

STARTS = 3
"""Workers in a row that may end before they are ready: to be killed is no fault, to be unable to run is."""
LOOK_SECONDS = 0.2
"""How often the driver looks whether it is to stop."""


class StoppedError(Exception):
    """The work on a part was to end before its last image."""


@dataclass(frozen=True)
class Task:
    """What a worker must know, wherever it runs."""

    config: BatchConfig
    settings: dict[str, Any]

    def file(self, part: Part) -> str:
        """The name of a part's file, from the folder of the results on."""
        return f"{PARTS}/{part_name(self.settings, part)}"

    def is_done(self, part: Part) -> bool:
        return folder_of(self.config.out).exists(self.file(part))

    def load(self) -> Detector:
        """The detector, for a worker process, which gets one thread. It has run once: what can't run ends here, and is no image's
        fault.

        Raises DetectorError kinds; WeightsError, too, if the weights are no longer, or on this machine are not, those of the
        settings.
        """
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        tune_malloc()
        if weights_sha256(self.config.weights) != self.settings["weights_sha256"]:
            raise WeightsError(
                f"{self.config.weights}: on {socket.gethostname()} this file differs from that of the start; a batch needs"
                " the same weights on all machines to its end"
            )
        detector = Detector.load(self.config.weights, self.config, threads=self.config.threads or 1)
        detector(np.zeros((64, 64, 3), np.uint8))
        return detector

    def publish(self, part: Part, rows: Table) -> None:
        """Write a part's file, whole or not at all; that it is there already does no harm, it is the same."""
        folder_of(self.config.out).write(self.file(part), lambda temporary: write_table(rows, temporary))


def do_job(detector: Detector, task: Task, job: Job, goes_on: Callable[[int], bool]) -> tuple[Table | None, int]:
    """Detect in a job's images; a whole part is published. The rows of a piece, else None, and how many have an error."""
    if job.whole and task.is_done(job.part):  # another driver was faster
        return None, 0
    rows = _detect(detector, job.piece, goes_on)
    errors = len(rows) - rows.column("error").null_count
    if job.whole:
        task.publish(job.part, rows)
        return None, errors
    return rows, errors


def _detect(detector: Detector, part: Part, goes_on: Callable[[int], bool]) -> Table:
    """The rows of a part's images in their order, one for each.

    goes_on: called after each image with the number of those that are done; if it returns false, StoppedError is raised.
    """
    ids = {path: part.first_id + place for place, path in enumerate(part.paths)}
    rows: dict[str, dict[str, Any]] = {}

    def failed(source: Source, error: Exception) -> None:
        rows[source.name] = error_row(text_of(source.name), ids[source.name], str(error))

    with closing(stream(detector, [Source(path, "image") for path in part.paths], failed)) as results:
        for result in results:
            name, (height, width) = result.source.name, result.image.shape[:2]
            rows[name] = found_row(text_of(name), ids[name], (width, height), result.detections)
            if not goes_on(len(rows)):
                raise StoppedError
    return table_of([rows[path] for path in part.paths])
