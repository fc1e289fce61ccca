"""The terminal, or what stands in its place."""

import os
from typing import Any

from rich.console import Console


class Terminal(Console):
    """Rich's console; that nobody reads its output any more is an error as with `print`, not the end of the process.

    In a notebook it writes plain lines: Jupyter gives a command that a cell starts a terminal, and asks for colors, but what
    moves the cursor would appear below each other, hundreds of times.
    """

    def __init__(self, **options: Any) -> None:
        """options: rich's."""
        if "JPY_PARENT_PID" in os.environ:  # Jupyter sets it for a kernel, which passes it on
            options |= {"force_terminal": False, "force_jupyter": False}
        super().__init__(**options)

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise
