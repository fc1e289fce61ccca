"""The tools as a user starts them, each in a process of its own."""

import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

REPOSITORY = Path(__file__).parent.parent
FORKS = multiprocessing.get_context("forkserver")
"""Begins with what takes seconds to import already there."""
FORKS.set_forkserver_preload(
    ["detector.training.loop", "detector.evaluation.evaluate", "detector.exporting.export", "detector.inference.infer"]
)


def run(
    arguments: list[str], largest_file: int | None = None, variables: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[str]":
    """tools/NAME.py with the rest of the arguments, to its end; files beyond `largest_file` bytes fail as on a full disk;
    variables: further ones of its environment."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = FORKS.Process(target=_run, args=(arguments, out, err, largest_file, dict(variables)))
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{arguments}: {err.read_text()}")
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _run(arguments: list[str], out: Path, err: Path, largest_file: int | None, variables: dict[str, str]) -> None:
    os.chdir(REPOSITORY)
    os.environ.update(variables)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = [f"tools/{arguments[0]}.py", *arguments[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    """The same, under way, in a session of its own, so that signals reach its workers too."""
    return subprocess.Popen(
        [sys.executable, f"tools/{arguments[0]}.py", *arguments[1:]],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
