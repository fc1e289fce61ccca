"""What is still to do, and what becomes of a part on which workers die: it is bisected until the image is found."""

from collections import Counter, deque
from collections.abc import Iterable

from detector.batch.plan import Job, Part, text_of
from detector.batch.table import Table, error_row, joined, table_of
from detector.batch.work import Task

TRIES = 2
"""Deaths on a part, or on a single image, after which it is no accident; half parts, which are suspect, have one."""


class Ledger:
    """The jobs of a run, for the one process that hands them out."""

    def __init__(self, task: Task, parts: Iterable[Part]) -> None:
        self._task = task
        self._waiting = deque(Job(part, part) for part in parts)
        self._deaths: Counter[Part] = Counter()
        self._pieces: dict[Part, dict[int, Table]] = {}

    @property
    def empty(self) -> bool:
        """Whether no job waits."""
        return not self._waiting

    def take(self) -> Job | None:
        """The next job, None if none waits."""
        return self._waiting.popleft() if self._waiting else None

    def give_back(self, job: Job) -> None:
        """It has not been begun, or not ended by any fault of its images."""
        self._waiting.appendleft(job)

    def piece_done(self, job: Job, rows: Table) -> None:
        """Keep the rows of a piece; publish the part when it was the last one."""
        pieces = self._pieces.setdefault(job.part, {})
        pieces[job.piece.first_id] = rows
        if sum(len(each) for each in pieces.values()) == len(job.part.paths):
            self._task.publish(job.part, joined([pieces[first] for first in sorted(pieces)]))
            del self._pieces[job.part]

    def died(self, job: Job, how: str) -> str | None:
        """A worker has died on this job: it is tried again, bisected or, a single image, quarantined, and then returned."""
        piece = job.piece
        self._deaths[piece] += 1
        if self._deaths[piece] < (TRIES if job.whole or len(piece.paths) == 1 else 1):
            self.give_back(job)
        elif len(piece.paths) > 1:
            for half in reversed(piece.halves()):
                self.give_back(Job(job.part, half))
        else:
            (image,) = piece.paths
            error = f"{text_of(image)}: quarantined: {TRIES} worker processes ended on this image ({how})"
            self.piece_done(job, table_of([error_row(text_of(image), piece.first_id, text_of(error))]))
            return error
        return None
