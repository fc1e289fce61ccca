#!/usr/bin/env python3
"""Detection in one image, this project's and a peer's in turn: milliseconds from the decoded image to its detections.

yolo11n at 640 px, batch 1, on a CPU, the same weights on both sides, runtime by runtime: PyTorch, ONNX Runtime (a file that
takes the image, and one that takes letterboxed images) and OpenVINO (float32, and bfloat16 as OpenVINO itself chooses
for other people's files where the processor has it). Each side of a pair runs in a process of its own
that stays; they take turns, round by round, and wait while the other one works. Then both start anew: a process keeps for its
life what its start gave it (where its memory lies), which changes times by a tenth. The figure to quote is the ratio of the
medians of a start, in the median over the starts, with the lowest and the highest.

The peer is a black box behind a program outside this repository, which the environment variable PEER_INFER names;
benchmarks/README.md says what that program reads and writes. Without it only the project is measured.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detector.errors import DetectorError
from detector.exporting.verify import shipped_photos
from detector.images.read import read_image
from detector.inference.detector import Detector
from detector.utils.fileio import write_json

WIDTH, HEIGHT, IMAGE_SIZE = 1280, 960, 640
SNUG = {"PyTorch, 480x640": (480, 640)}
"""The frame that the image fills, for peers that choose it by themselves."""
EXPORTS = {
    "PyTorch": None,
    "PyTorch, 480x640": None,
    "ONNX Runtime, image": (".onnx", []),
    "ONNX Runtime, batched": (".onnx", ["--batched"]),
    "OpenVINO": (".xml", ["--format", "openvino"]),
    "OpenVINO, bfloat16": (".xml", ["--format", "openvino", "--precision", "bfloat16"]),
}
PEER_FILES = {"PyTorch": "torch", "ONNX Runtime": "onnx", "OpenVINO": "openvino"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="weights file; those of detector import_weights for the peer's own")
    for runtime, option in PEER_FILES.items():
        parser.add_argument(f"--peer-{option}", help=f"the peer's file for {runtime}")
    parser.add_argument("--data", help="folder of the weights' dataset, for bfloat16, which is skipped without it")
    parser.add_argument("--image", help=f"image to detect in, made {WIDTH}x{HEIGHT}; a shipped one if not given")
    parser.add_argument("--starts", type=int, default=5, help="processes of each side, one after the other")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each process")
    parser.add_argument("--calls", type=int, default=10, help="images a turn")
    parser.add_argument("--threads", type=int, help="of both sides; each side's own choice if not given")
    parser.add_argument("--only", nargs="+", choices=list(EXPORTS), default=list(EXPORTS), help="runtimes to measure")
    parser.add_argument("--out", help="file for all figures")
    parser.add_argument("--serve", nargs=3, metavar=("FILE", "IMAGE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        file, image, size = options.serve
        serve(file, image, size, options.threads)
        return
    if options.weights is None:
        parser.error("--weights is missing")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = read_image(Path(options.image or shipped_photos()[0]))
        np.save(folder / "image.npy", cv2.resize(image, (WIDTH, HEIGHT)))
        chosen = [runtime for runtime in options.only if options.data or "bfloat16" not in runtime]
        report = {runtime: pair(runtime, options, folder) for runtime in chosen}
    if options.out:
        write_json(Path(options.out), {"options": vars(options), "cores": os.cpu_count(), "runtimes": report})
    best = {
        side: min((figures[side] for figures in report.values() if side in figures), key=lambda side: side["ms"])
        for side in ("project", "peer")
        if any(side in figures for figures in report.values())
    }
    if len(best) == 2:
        print(f"best against best: {best['project']['ms'] / best['peer']['ms']:.2f}")


def pair(runtime: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One runtime's figures of both sides, in turn."""
    commands = {"project": project_command(runtime, options, folder)}
    peer, peer_file = os.environ.get("PEER_INFER"), getattr(options, f"peer_{PEER_FILES[runtime.split(',')[0]]}")
    if peer is not None and peer_file is not None:
        commands["peer"] = [*shlex.split(peer), peer_file, str(folder / "image.npy")]
    starts = []
    for _ in range(options.starts):
        sides = {name: Side(command, options.threads) for name, command in commands.items()}
        for _ in range(options.rounds):
            for side in sides.values():
                side.turn(options.calls)
        for side in sides.values():
            side.end()
        starts.append(sides)
    figures: dict[str, Any] = {name: figures_of([sides[name] for sides in starts]) for name in commands}
    for name, found in figures.items():
        network = "" if found["network_ms"] is None else f", network {found['network_ms']:6.1f}"
        print(
            f"{runtime:<22} {name:<8} {found['ms']:6.1f} ms, p95 {found['p95_ms']:6.1f}{network}, {found['boxes']} boxes,"
            f" threads {found['threads']}",
            flush=True,
        )
    if len(commands) == 2:
        ratios = [np.median(sides["project"].spent) / np.median(sides["peer"].spent) for sides in starts]
        figures["ratio"] = float(np.median(ratios))
        print(f"{runtime:<22} project/peer {figures['ratio']:.2f} ({min(ratios):.2f}..{max(ratios):.2f})", flush=True)
        figures["ratios"] = [float(ratio) for ratio in ratios]
    return figures


class Side:
    """A process that detects on request, and what it took."""

    def __init__(self, command: list[str], threads: int | None) -> None:
        self.process = subprocess.Popen(
            command,
            env=os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.start = self._read()
        self.spent: list[float] = []
        self.network: list[float] = []
        self.turn(5)
        self.spent, self.network = [], []  # that was to warm up

    def turn(self, calls: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        answer = self._read()
        self.spent += answer["ms"]
        self.network += answer.get("network_ms", [])

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: ended without an answer: {shlex.join(self.process.args)}")  # type: ignore[arg-type]
        answer: dict[str, Any] = json.loads(line)
        return answer


def figures_of(starts: Sequence[Side]) -> dict[str, Any]:
    """Of the processes of one side: medians in the median over the starts, p95 of all calls."""
    middle = float(np.median([np.median(side.spent) for side in starts]))
    p95 = float(np.percentile(np.concatenate([side.spent for side in starts]), 95))
    alone = [np.median(side.network) for side in starts if side.network]
    network_ms = float(np.median(alone)) if alone else None
    return {"ms": middle, "p95_ms": p95, "network_ms": network_ms, **starts[0].start}


def project_command(runtime: str, options: argparse.Namespace, folder: Path) -> list[str]:
    file, made = options.weights, EXPORTS[runtime]
    if made is not None:
        suffix, arguments = made
        file = str(folder / f"{runtime}{suffix}")
        settings = [f"--weights={options.weights}", f"--out={file}", f"--image_size={IMAGE_SIZE}", *arguments]
        settings += [f"--data={options.data}"] if "bfloat16" in arguments else []
        command = [sys.executable, "-m", "detector.cli", "export", *settings]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    threads = [] if options.threads is None else ["--threads", str(options.threads)]
    image_size = json.dumps(SNUG.get(runtime, IMAGE_SIZE))
    return [sys.executable, __file__, "--serve", file, str(folder / "image.npy"), image_size, *threads]


def serve(file: str, image_file: str, image_size: str, threads: int | None) -> None:
    """The project's side: what benchmarks/README.md asks of a peer's."""
    import torch

    size = json.loads(image_size)
    size = size if isinstance(size, int) else tuple(size)
    detector = Detector.load(file, image_size=size, device="cpu", threads=threads)
    image = np.load(image_file)
    print(json.dumps({"boxes": len(detector(image)), "threads": torch.get_num_threads()}), flush=True)
    inside = detector.runtime.detect
    network: list[float] = []

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        found = inside(*arguments)
        network.append((time.perf_counter() - started) * 1e3)
        return found

    detector.runtime.detect = timed  # type: ignore[method-assign, assignment]
    for line in sys.stdin:
        network.clear()
        spent = []
        for _ in range(int(line)):
            started = time.perf_counter()
            detector(image)
            spent.append((time.perf_counter() - started) * 1e3)
        print(json.dumps({"ms": spent, "network_ms": network}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except DetectorError as error:
        sys.exit(f"error: {error}")
