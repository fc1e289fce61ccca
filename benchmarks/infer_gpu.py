#!/usr/bin/env python3
"""Inference on one CUDA GPU in half precision: latency and images/s of the network, with its decoding, before NMS.

yolo11n and yolo11x, batch 1 and 64, 640 px: PyTorch as it is, as a CUDA graph, compiled (reduce-overhead, which makes CUDA
graphs too), and TensorRT where it is installed. The images lie on the GPU as uint8, as `Detector` brings them there. Each
measurement has a process of its own with a budget in seconds: what is too slow is cut off and named, and the rest is kept.

So far this has run on a CPU only, in a tiny form (--device cpu --quick): it has NOT run on CUDA yet, nor with TensorRT.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_gpu import PUBLISHED_PEAKS, Figures, in_its_own_process

from detector.config import ExportConfig
from detector.errors import DetectorError
from detector.formats.graphs import Uint8Graph
from detector.images.input_size import InputSize
from detector.models.catalog import create_model
from detector.structures import Categories
from detector.utils.device import resolve_device
from detector.utils.fileio import write_json
from detector.weights.files import WeightsInfo

CLASSES = 80
WARM_UP = 5
KINDS = ("plain", "CUDA graph", "compiled", "TensorRT")
Network = Callable[[Tensor], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/infer_gpu.json", help="file for all figures")
    parser.add_argument("--models", nargs="+", default=["yolo11n", "yolo11x"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64], help="images at a time")
    parser.add_argument("--image-size", type=int, default=640, help="side of the network input in pixels")
    parser.add_argument("--device", default="cuda", help="cpu only shows that this program works")
    parser.add_argument("--seconds", type=float, default=4, help="length of a measurement")
    parser.add_argument("--budget", type=float, default=500, help="seconds for all measurements together")
    parser.add_argument("--quick", action="store_true", help="yolo11n, batches of 1 and 2, 64 px, a second each")
    options = parser.parse_args()
    if options.quick:
        options.models, options.batches, options.image_size, options.seconds = ["yolo11n"], [1, 2], 64, 1.0
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = next((peak for part, peak in PUBLISHED_PEAKS.items() if part in name), None)
    report: Figures = {"device": name, "torch": torch.__version__, "options": vars(options), "peak_tflops": peak}
    report["sections"] = {}
    deadline = time.monotonic() + options.budget
    # the quick ones first, so that a small budget keeps most of them
    work = [(kind, model, batch) for kind in KINDS for model in options.models for batch in options.batches]
    for done, (kind, model, batch) in enumerate(work):
        section = f"{model}, batch {batch}, {kind}"
        arguments = [kind, model, batch, options.image_size, options.device, options.seconds, peak]
        fair = 3 * (deadline - time.monotonic()) / (len(work) - done)  # most take less
        budget = min(fair, deadline - time.monotonic())
        with tempfile.TemporaryDirectory() as folder:
            figures = in_its_own_process(measure, arguments, Path(folder) / "figures.json", max(budget, 1))
        report["sections"][section] = figures
        write_json(Path(options.out), report)  # each time: what is measured is kept whatever happens to the rest
        print(f"{section}:", *(f"\n  {key}: {value}" for key, value in figures.items()), flush=True)
    ended = [section for section, figures in report["sections"].items() if "ended" in figures]
    print(f"{name}; cut off or failed: {', '.join(ended) or 'nothing'}; all figures: {options.out}")


@torch.no_grad()
def measure(
    kind: str, name: str, batch: int, image_size: int, device_name: str, seconds: float, peak: float | None
) -> Iterator[Figures]:
    """Operations, then what building took, then latency and images/s."""
    device = resolve_device(device_name)
    size = InputSize(image_size, image_size)
    torch.manual_seed(0)
    model = create_model(name, CLASSES).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size))
    tflops_per_image = counter.get_total_flops() / 1e12
    yield {"gflops_a_image": 1e3 * tflops_per_image}
    images = torch.randint(256, (batch, *size, 3), dtype=torch.uint8, device=device)
    started = time.monotonic()
    run = tensorrt_network(model, name, images) if kind == "TensorRT" else torch_network(model, kind, images)
    for _ in range(WARM_UP):
        run(images)
    wait(device)
    yield {"build_and_warm_up_seconds": time.monotonic() - started}

    latencies = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        started = time.perf_counter()
        run(images)
        wait(device)
        latencies.append((time.perf_counter() - started) * 1e3)
    median, p95 = np.percentile(latencies, (50, 95)).tolist()
    yield {"latency_ms": median, "latency_p95_ms": p95}

    calls, began = max(int(seconds * 1e3 / median), 1), time.monotonic()
    for _ in range(calls):
        run(images)
    wait(device)
    rate = calls * batch / (time.monotonic() - began)
    yield {"images_per_second": rate, "tflops": rate * tflops_per_image}
    yield {"fraction_of_published_peak": rate * tflops_per_image / peak if peak else None}
    if device.type == "cuda":
        yield {"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}


def torch_network(model: Any, kind: str, images: Tensor) -> Network:
    """Fused, channels last, in half precision where the device is a GPU."""
    device = images.device
    graph = Uint8Graph(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(images: Tensor) -> object:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            return graph(images)

    if kind == "compiled":
        return torch.compile(run, mode="reduce-overhead")
    if kind == "plain":
        return run
    if device.type != "cuda":
        raise DetectorError("CUDA graphs need a GPU")
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # capturing wants to be warmed up on another stream
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            run(images)
    torch.cuda.current_stream(device).wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        run(images)
    return lambda _: recorded.replay()


def tensorrt_network(model: Any, name: str, images: Tensor) -> Network:
    """The engine that detector export writes, for as many images as `images`. Raises ConfigError without the package."""
    from detector.formats.tensorrt.export import write_engine
    from detector.formats.tensorrt.runtime import TensorRtRuntime

    batch, height, width, _ = images.shape
    categories = Categories(tuple(range(CLASSES)), tuple(f"class{label}" for label in range(CLASSES)))
    info = WeightsInfo(name, categories, (height, width), {}, {}, "none")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.engine"
        config = ExportConfig(weights=name, out=str(file), format="tensorrt", precision="float16")
        write_engine(file, model, info, config, batch=batch)
        return TensorRtRuntime(file, images.device).enqueue


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    try:
        main()
    except DetectorError as error:
        sys.exit(f"error: {error}")
