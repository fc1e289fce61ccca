"""Results of one file, measured in a process of its own: `python -m detector.benchmarking.measure JOB OUT`."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from detector.errors import DetectorError
from detector.formats.pytorch import EagerRuntime
from detector.formats.runtime import HeadRuntime, Runtime
from detector.images.read import read_image
from detector.inference.detector import Detector, to_tensor
from detector.utils.fileio import write_json
from detector.utils.memory import tune_malloc

WARM_UP = 5
"""Calls before anything is measured."""
AP_CONF = 0.001
"""Lowest score in the AP, as in `evaluate`."""
Image = UInt8[np.ndarray, "_h _w 3"]


@dataclass(frozen=True)
class Job:
    """What to measure.

    file: to load; images: files to detect in; data, split: what the AP is of; started: when the process was asked for, in
    seconds since the epoch; the rest as in `BenchmarkConfig`.
    """

    file: str
    images: list[str]
    data: str
    split: str
    image_size: int | tuple[int, int]
    device: str
    threads: int | None
    rounds: int
    started: float


@dataclass(frozen=True)
class BenchmarkResult:
    """What came out.

    start_seconds: from the process's start to its first detections; memory_mib: the largest resident size of the process while
    it detected in one image, None where the system doesn't tell; latency: from a decoded image to its `Detections`;
    network: from a letterboxed image to what the network says, None for a file that holds more than the network;
    images_per_second: end to end, `batch` images at a time.
    """

    start_seconds: float
    memory_mib: float | None
    latency_ms: float
    latency_p95_ms: float
    network_ms: float | None
    network_p95_ms: float | None
    batch: int
    images_per_second: float
    ap: float


def measure(job: Job) -> BenchmarkResult:
    """Raises DetectorError kinds for a file that can't be used here."""
    detector = Detector.load(job.file, image_size=job.image_size, device=job.device, threads=job.threads)
    first = read_image(Path(job.images[0]))
    detector(first)
    start_seconds = time.time() - job.started
    for _ in range(WARM_UP):
        detector(first)
    memory_mib = peak_memory()
    images = [read_image(Path(path)) for path in job.images]
    latency_ms, latency_p95_ms = middle_and_p95(times(lambda image: detector(image), images, job.rounds))
    alone = network_times(detector, images, job.rounds)
    network_ms, network_p95_ms = middle_and_p95(alone) if alone else (None, None)
    batch, images_per_second = throughput(detector, images, job.rounds)
    return BenchmarkResult(
        start_seconds=start_seconds,
        memory_mib=memory_mib,
        latency_ms=latency_ms,
        latency_p95_ms=latency_p95_ms,
        network_ms=network_ms,
        network_p95_ms=network_p95_ms,
        batch=batch,
        images_per_second=images_per_second,
        ap=average_precision(detector, job),
    )


def times(run: Callable[[Any], object], inputs: Sequence[Any], rounds: int) -> list[float]:
    """Milliseconds of each call, one after the other."""
    spent = []
    for _ in range(rounds):
        for value in inputs:
            started = time.perf_counter()
            run(value)
            spent.append((time.perf_counter() - started) * 1e3)
    return spent


@torch.no_grad()
def network_times(detector: Detector, images: Sequence[Image], rounds: int) -> list[float]:
    """Milliseconds of the network alone; none for a file that holds more than that."""
    run = network_of(detector.runtime)
    if run is None:
        return []
    placed = [(image, detector.letterbox(image.shape[1], image.shape[0])) for image in images]
    inputs = [to_tensor(letterbox.apply(image))[None] for image, letterbox in placed]

    def finished(one: torch.Tensor) -> None:
        run(one)
        if detector.device.type == "cuda":
            torch.cuda.synchronize(detector.device)

    times(finished, inputs[:1] * WARM_UP, 1)
    return times(finished, inputs, rounds)


def network_of(runtime: Runtime) -> Callable[[torch.Tensor], object] | None:
    if isinstance(runtime, EagerRuntime):
        return runtime.logits
    return runtime.predict if isinstance(runtime, HeadRuntime) else None


def throughput(detector: Detector, images: Sequence[Image], rounds: int) -> tuple[int, float]:
    """Images at a time, as many as the file takes and at most `Detector.BATCH`, and images/s."""
    one_by_one = detector.batch
    detector.batch = batch = min(Detector.BATCH, detector.runtime.max_batch_size or Detector.BATCH, len(images))
    detector(images[:batch])
    started = time.perf_counter()
    for _ in range(rounds):
        detector(images)
    spent = time.perf_counter() - started
    detector.batch = one_by_one
    return batch, rounds * len(images) / spent


def average_precision(detector: Detector, job: Job) -> float:
    """AP on the whole split."""
    # imported here, so that start-up and memory are those of a program that only detects
    from detector.data.load import load_split
    from detector.evaluation.evaluate import evaluate_model

    detector.conf = AP_CONF
    dataset = load_split(job.data, job.split, detector.categories)  # type: ignore[arg-type]
    ap: float = evaluate_model(detector, dataset, workers=0).metrics["AP"]
    return ap


def middle_and_p95(spent: Sequence[float]) -> tuple[float, float]:
    median, p95 = np.percentile(spent, (50, 95)).tolist()
    return median, p95


def peak_memory() -> float | None:
    """Largest resident size so far in MiB; Linux tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def end_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps, and with it the other end of the input."""
    os.read(0, 1)
    os._exit(1)


def main() -> int:
    Thread(target=end_with_parent, daemon=True).start()
    values = json.loads(sys.argv[1])
    size = values.pop("image_size")
    job = Job(**values, image_size=size if isinstance(size, int) else tuple(size))
    try:
        tune_malloc()
        write_json(Path(sys.argv[2]), asdict(measure(job)))
    except DetectorError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
