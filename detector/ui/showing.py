"""What every part of the page does the same way: text from elsewhere, and errors of this package."""

import html
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from detector.errors import DetectorError, printable

BUTTONS = ["download", "fullscreen"]
"""Of an image that the page shows."""


def shown(text: str) -> str:
    """Text from elsewhere as a page shows it: no markup."""
    return html.escape(printable(text))


def reporting_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with errors of this package shown on the page; others keep their traceback in the log."""

    @wraps(function)
    def wrapped(*values: Any) -> Any:
        try:
            return function(*values)
        except DetectorError as error:
            raise gr.Error(shown(str(error)), print_exception=False) from error

    return wrapped
