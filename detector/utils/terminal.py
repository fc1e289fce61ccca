"""The terminal, or what stands in its place."""

from rich.console import Console


class Terminal(Console):
    """Rich's console; that nobody reads its output any more is an error as with `print`, not the end of the process."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise
