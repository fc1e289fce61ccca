"""What every part of the page does the same way: text from elsewhere, and errors of this package."""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import gradio as gr

from detector.errors import DetectorError, printable

BUTTONS = ["download", "fullscreen"]
"""Of an image that the page shows."""


def shown(text: str) -> str:
    """Text from elsewhere as a page shows it: no markup."""
    return html.escape(printable(text))


@contextmanager
def errors_shown() -> Iterator[None]:
    """Errors of this package within the block are shown on the page; others keep their traceback in the log."""
    try:
        yield
    except DetectorError as error:
        raise gr.Error(shown(str(error)), print_exception=False) from error


def reporting_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its errors as those of `errors_shown`."""

    @wraps(function)
    def wrapped(*values: Any) -> Any:
        with errors_shown():
            return function(*values)

    return wrapped
