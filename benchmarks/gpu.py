#!/usr/bin/env python3
"""The prepared package for a CUDA GPU, in at most 9 minutes: correctness, training, inference and augmentation, each with its own
limit; the last one has what the others leave.

The parts run in this order, each as a program of its own, which writes its figures as they come; one that is too slow is
ended, and what it has written is kept. --tiny runs all of it on the CPU in a minute or two, to show that it works.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
PARTS = {
    "gpu_checks": (190, [], ["--device=cpu", "--quick"]),
    "train_gpu": (
        190,
        ["--seconds=8", "--budget=60"],
        ["--device=cpu", "--models=yolo11n", "--batch=4", "--image-size=64", "--seconds=2", "--workers=1"],
    ),
    "infer_gpu": (150, ["--budget=140", "--seconds=3"], ["--device=cpu", "--quick"]),
    "augment_device": (80, ["--rounds=1", "--seconds=4", "--budget=25"], ["--device=cpu", "--quick"]),
}
"""By program: limit in seconds, arguments, those of --tiny."""
TOTAL = 540
"""Seconds for all of them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for a file of figures of each part")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in a tiny form")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed, started = [], time.monotonic()
    for part in options.parts:
        most, arguments, tiny = PARTS[part]
        limit = most * 3 if options.tiny else max(min(most, TOTAL - (time.monotonic() - started)), 0)
        command = [sys.executable, str(FOLDER / f"{part}.py"), f"--out={options.out / part}.json"]
        since = time.monotonic()
        process = subprocess.Popen(command + (tiny if options.tiny else arguments), start_new_session=True)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            failed.append(f"{part} (exit code {process.returncode})")
        print(f"== {part}: {time.monotonic() - since:.0f} s of {limit:.0f}", flush=True)
    print(f"figures: {options.out}; failed or cut off: {', '.join(failed) or 'nothing'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
