"""Puts the images of a dataset into another one."""

import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from detector.errors import DataError
from detector.utils.fileio import writing


@dataclass(frozen=True)
class Place:
    """Copies or hard-links a file; one that can't be linked is copied. done: how many were."""

    how: Literal["copy", "link"]
    done: Counter[str] = field(default_factory=Counter)

    def __call__(self, source: Path, target: Path) -> None:
        """Raises DataError or WriteError naming the file that can't be read or written."""
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if self.how == "link":
            with suppress(OSError, NotImplementedError):  # another disk, or a file system without links
                os.link(source.resolve(), target)
                self.done["hard-linked"] += 1
                return
        try:
            file = source.open("rb")
        except OSError as error:
            raise DataError(f"{source}: this image can't be read: {error.strerror}; correct its permissions") from error
        with file, writing(target), target.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        self.done["copied"] += 1
