#!/usr/bin/env python3
"""Detection in one image beside 0, 1 and 2 busy processes, from Python: milliseconds a call, all sides in turn.

Sides: the default; the default with OpenMP's spinning threads (`patient_threads` taken out, the state before it); one
thread; and a peer, by the protocol of inference.py (benchmarks/README.md). yolo11n at 640 px, PyTorch, batch 1, on a CPU.
"""

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from inference import HEIGHT, IMAGE_SIZE, WIDTH, Side, serve

from detector.exporting.verify import shipped_photos
from detector.images.read import read_image
from detector.inference import detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--peer-torch", help="the peer's file; PEER_INFER names its program")
    parser.add_argument("--starts", type=int, default=3, help="processes of each side, one after the other")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--calls", type=int, default=5, help="images a turn")
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "IMAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        side, image_file = options.serve
        if side == "spinning":
            vars(detector)["patient_threads"] = contextlib.nullcontext
        serve(options.weights, image_file, str(IMAGE_SIZE), 1 if side == "one thread" else None)
        return
    with tempfile.TemporaryDirectory() as folder:
        image_file = f"{folder}/image.npy"
        np.save(image_file, cv2.resize(read_image(Path(shipped_photos()[0])), (WIDTH, HEIGHT)))
        command = [sys.executable, __file__, "--weights", options.weights, "--serve"]
        commands = {name: [*command, name, image_file] for name in ("default", "spinning", "one thread")}
        if options.peer_torch is not None:
            commands["peer"] = [*shlex.split(os.environ["PEER_INFER"]), options.peer_torch, image_file]
        for processes in (0, 1, 2):
            spent: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(options.starts):
                with busy(processes):
                    sides = {name: Side(command, None) for name, command in commands.items()}
                    for _ in range(options.rounds):
                        for each in sides.values():
                            each.turn(options.calls)
                for name, each in sides.items():
                    each.end()
                    spent[name] += each.spent
            for name, ms in spent.items():
                low, median, p90 = np.percentile(ms, [10, 50, 90])
                print(
                    f"{processes} busy  {name:<10} median {median:6.0f} ms  p10 {low:6.0f}  p90 {p90:6.0f}", flush=True
                )


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
