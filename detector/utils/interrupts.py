"""How the program answers Ctrl-C (SIGINT) and SIGTERM.

The protocol, in four rules:

1. A terminal, torchrun and schedulers send both signals to every process of a run. The main process answers; loader workers
   obey only the main process (`obey_parent_only`), which sends them SIGTERM when it exits and then waits for their end.
2. While workers start, the main process blocks both signals (`stop_signals_blocked`): a worker inherits the mask and keeps it,
   so that none is killed before it knows what to do.
3. Training turns both into an event that is read between steps (`stop_requested`): the step under way is finished and saved.
4. What must not be torn apart, such as the results of one image, runs in `interrupt_later`.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOP = {signal.SIGINT, signal.SIGTERM}


def obey_parent_only() -> None:
    """Let a stop signal end this process only if it comes from its parent: for a worker as it starts, with `STOP` blocked."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def obey() -> None:
        while signal.sigwaitinfo(STOP).si_pid != parent.pid:
            pass
        os._exit(0)

    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=obey, daemon=True).start()
    else:  # macOS: SIGTERM is left to torch's handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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
def handler_kept(number: int) -> Iterator[None]:
    """Undo what the block changes in the handler of a signal."""
    before = signal.getsignal(number)
    yield
    if threading.current_thread() is threading.main_thread():  # no other can change handlers
        signal.signal(number, before)


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
