"""The processes that read images."""

import os
import signal

import pytest
from torch.utils.data import DataLoader

from detector.data.workers import batches_of, start_worker
from detector.utils.interrupts import STOP


def test_a_worker_told_to_stop_as_it_starts_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to all processes may come before the worker has said that it wants none."""
    fork = os.fork

    def fork_and_stop() -> int:
        child = fork()
        if child == 0:
            for number in STOP:
                os.kill(os.getpid(), number)
        return child

    monkeypatch.setattr(os, "fork", fork_and_stop)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loader = DataLoader([1, 2, 3, 4], batch_size=None, num_workers=2, worker_init_fn=start_worker)  # type: ignore[arg-type]
    assert list(batches_of(loader)) == [1, 2, 3, 4]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
