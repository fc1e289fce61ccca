"""How the program answers the stop signals: Ctrl-C (SIGINT), SIGTERM and, of a terminal that closes, SIGHUP.

The protocol, in five rules:

1. A terminal, torchrun and schedulers send them to every process of a run. The main process answers; loader workers obey
   only the main process (`obey_parent_only`), which sends them SIGTERM when it exits and then waits for their end.
2. While workers start, the main process blocks them (`stop_signals_blocked`): a worker inherits the mask and keeps it, so
   that none is killed before it knows what to do. Windows can't block signals.
3. The commands answer the others as Ctrl-C, with a KeyboardInterrupt (`stop_signals_interrupt`): what was begun is removed.
   Raised in the callback of a weak reference or in a `__del__`, it would be ignored by Python; it is raised again.
4. Training turns them into an event that is read between steps (`stop_requested`): the step under way is finished and saved.
5. What must not be torn apart, such as the results of one image, runs in `interrupt_later`.
"""

import _thread
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

STOP = {number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None}
"""Windows has no SIGHUP."""
AGAIN_SECONDS = 0.1
"""After a KeyboardInterrupt that Python ignored: enough for the callback that it was raised in to end."""


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
        return
    for number in STOP - {signal.SIGTERM}:  # macOS, Windows: SIGTERM is left to torch's handler
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Block `STOP` for the time of the block, where the system can; processes started in it inherit that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Within the block the other stop signals, too, raise KeyboardInterrupt, and one that Python ignored is raised again."""
    came, before = signal.SIGINT, sys.unraisablehook

    def interrupt(number: int, frame: Any) -> None:
        nonlocal came
        came = signal.Signals(number)
        signal.default_int_handler(number, frame)

    def ignored(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN_SECONDS, send_to_main_thread, [came]).start()
        else:
            before(unraisable)

    sys.unraisablehook = ignored
    try:
        with _handled(interrupt, STOP - {signal.SIGINT}):
            yield
    finally:
        sys.unraisablehook = before


def send_to_main_thread(number: signal.Signals) -> None:
    """Have the main thread answer a signal, and end the system call that it waits in, where the system can."""
    if hasattr(signal, "pthread_kill"):
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(number)


@contextmanager
def handler_kept(name: str) -> Iterator[None]:
    """Undo what the block changes in the handler of a signal, where the system has it."""
    number = getattr(signal, name, None)
    before = number and signal.getsignal(number)
    yield
    if number is not None and threading.current_thread() is threading.main_thread():  # no other can change handlers
        signal.signal(number, before)


@contextmanager
def interrupt_later() -> Iterator[None]:
    """Stop signals within the block take effect at its end."""
    came: list[int] = []
    with _handled(lambda number, _frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that stop signals set within the block; a second Ctrl-C raises KeyboardInterrupt at once."""
    stop = threading.Event()

    def request(number: int, _frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    with _handled(request):
        yield stop


@contextmanager
def _handled(handler: Any, numbers: Iterable[int] = STOP) -> Iterator[None]:
    """Have `handler` answer stop signals within the block, but not those that nohup or the like has turned off. Python gives
    signals to the main thread alone."""
    before = {number: signal.getsignal(number) for number in numbers}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for number in before.keys() - {signal.SIGINT}:
        if before[number] in (signal.SIG_IGN, None):
            del before[number]
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
