"""How the program answers Ctrl-C (SIGINT) and SIGTERM.

The protocol, in four rules:

1. A terminal, torchrun and schedulers send both signals to every process of a run. The main process answers; loader workers
   ignore them (`ignore_stop_signals`) and end when the main process ends their loader.
2. While workers start, the main process blocks both signals (`stop_signals_blocked`): a worker inherits the mask and unblocks
   it once it ignores them, so that none is killed before it knows what to do.
3. Training turns both into an event that is read between steps (`stop_requested`): the step under way is finished and saved.
4. What must not be torn apart, such as the results of one image, runs in `interrupt_later`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOP = {signal.SIGINT, signal.SIGTERM}


def ignore_stop_signals() -> None:
    """Let no stop signal end this process: for a worker as it starts, with `STOP` blocked."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Block `STOP` for the time of the block; processes started in it inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interrupt_later() -> Iterator[None]:
    """Ctrl-C within the block takes effect at its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set within the block; a second Ctrl-C raises KeyboardInterrupt at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield stop
        return

    def request(number: int, _frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in STOP}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
