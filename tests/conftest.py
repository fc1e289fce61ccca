"""Shapes in signatures are checked at run time: the hook must be installed before the package is imported.

One thread: the tests' networks are too small to gain from more, and threads of two processes would hinder each other.
"""

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
jaxtyping.install_import_hook("detector", "shape_checker.check")
# started by nohup or in the background of a script they are ignored, here and in the processes that tests start
for number, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, number) and signal.getsignal(getattr(signal, number)) == signal.SIG_IGN:
        signal.signal(getattr(signal, number), handler)


@contextmanager
def without_shape_checks() -> Iterator[None]:
    """A tracer can't look into the values that the run-time checks of shapes ask for."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """For tests that trace."""
    with without_shape_checks():
        yield


@pytest.fixture(scope="module")
def no_shape_checks_in_module() -> Iterator[None]:
    """For modules whose fixtures trace."""
    with without_shape_checks():
        yield


@pytest.fixture(params=["av", "cv2"])
def video_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package that reads and writes videos: that of the extra `video`, and what there is without it."""
    importlib.import_module("av.subtitles.stream")  # PyAV does when it first writes, which tests do in either case
    if request.param == "cv2":
        monkeypatch.setitem(sys.modules, "av", None)
    return str(request.param)
