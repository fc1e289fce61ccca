"""The tools as a user starts them, for tests that press Ctrl-C or kill."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    """tools/NAME.py with the rest of the arguments, in a session of its own, so that signals reach its workers too."""
    return subprocess.Popen(
        [sys.executable, f"tools/{arguments[0]}.py", *arguments[1:]],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
