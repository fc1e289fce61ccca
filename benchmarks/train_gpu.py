#!/usr/bin/env python3
"""Training throughput on one CUDA GPU: images/s with the data pipeline, and from a batch on the GPU.

Each model is measured as it is and with --train.compile true, in bf16, each in a process of its own with a budget in
seconds: what is too slow is cut off and named, and the rest is kept. The fraction of a peak counts 3 times the operations
of the forward pass (once forward, twice backward). The images are read again and again, so most of them come from
the system's cache of files, not from the disk.

So far this has run on a CPU only, in a tiny form (benchmarks/README.md): it has NOT run on CUDA yet.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as detector.cli does, before torch is imported

import torch
from torch.utils.data import Sampler
from torch.utils.flop_counter import FlopCounterMode

from detector.cli import COMMANDS, parse
from detector.data.loader import TrainDataset, drawn, train_loader
from detector.data.sampler import SampleKey
from detector.data.workers import batches_of
from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.images.input_size import InputSize
from detector.structures import Batch
from detector.training.checkpoint import TrainState
from detector.training.setup import Run, set_up
from detector.training.step import take_step
from detector.utils.device import resolve_device
from detector.utils.fileio import write_json

# TFLOP/s of dense bf16 by the maker's data plots; the first name that the device's name contains counts
PUBLISHED_PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}
DRAWN_IMAGES = 192
WARM_UP_STEPS = 5
Figures = dict[str, Any]
Work = Callable[..., Iterator[Figures]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of a dataset that detector train --data would take; drawn if not given")
    parser.add_argument("--out", default="runs/train_gpu.json", help="file for all figures")
    parser.add_argument("--models", nargs="+", default=["yolo11n", "yolo11m"])
    parser.add_argument("--image-size", type=int, default=640, help="side of the network input in pixels")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--workers", type=int, default=-1, help="as --workers")
    parser.add_argument("--device", default="cuda", help="cpu only shows that this program works")
    parser.add_argument("--seconds", type=float, default=12, help="length of a measurement")
    parser.add_argument("--budget", type=float, default=100, help="seconds after which a section is cut off")
    options = parser.parse_args()
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peaks = {"published": next((peak for part, peak in PUBLISHED_PEAKS.items() if part in name), None)}
    report: Figures = {"device": name, "torch": torch.__version__, "options": vars(options), "peaks_tflops": peaks}
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        data = options.data or str(folder / "drawn")
        if options.data is None:
            make_dataset(Path(data), train=DRAWN_IMAGES, val=3, test=3)
        work: dict[str, tuple[Any, ...]] = {"matmul": (matmul_peak, device)}
        for model in options.models:
            for suffix, compiled in (("", []), (", compiled", ["--train.compile", "true"])):
                arguments = training_arguments(options, data, model, folder / f"{model}{suffix}")
                work[f"{model}{suffix}"] = (training, arguments + compiled, options.seconds, peaks)
        report["sections"] = {}
        for section, (function, *arguments) in work.items():
            figures = in_its_own_process(function, arguments, folder / "figures.json", options.budget)
            if section == "matmul":
                peaks["measured"] = figures.get("tflops")
            report["sections"][section] = figures
            write_json(Path(options.out), report)  # each time: what is measured is kept whatever happens to the rest
            print(f"{section}:", *(f"\n  {key}: {value}" for key, value in figures.items()), flush=True)
    cut_off = [section for section, figures in report["sections"].items() if "ended" in figures]
    print(f"{name}; cut off or failed: {', '.join(cut_off) or 'nothing'}; all figures: {options.out}")


def training_arguments(options: argparse.Namespace, data: str, model: str, out: Path) -> list[str]:
    """Of `detector train`."""
    settings = {
        "data": data,
        "model": model,
        "out": out,
        "image_size": options.image_size,
        "batch_size": options.batch,
        "device": options.device,
        "train.precision": "bf16" if options.device.startswith("cuda") else "fp32",
        "workers": options.workers,
    }
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def in_its_own_process(work: Work, arguments: list[Any], out: Path, budget: float) -> Figures:
    """What `work` came to within `budget` seconds; if it did not come to its end, "ended" says why."""
    out.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=collect, args=(work, arguments, out))
    process.start()
    assert process.pid is not None
    try:
        process.join(budget)
    finally:
        cut_off = process.is_alive()
        if cut_off:
            process.kill()
            with suppress(ProcessLookupError):  # no group yet: cut off while it was starting
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    figures: Figures = json.loads(out.read_bytes()) if out.exists() else {}
    if cut_off:
        figures["ended"] = f"cut off after {budget:g} s"
    elif process.exitcode != 0:
        figures.setdefault("ended", f"exit code {process.exitcode}")
    return figures


def collect(work: Work, arguments: list[Any], out: Path) -> None:
    """In the process: write down the figures as they come."""
    os.setsid()  # so that the loader's and the compiler's processes can be ended together with this one
    figures: Figures = {}
    try:
        for found in work(*arguments):
            figures |= found
            write_json(out, figures)
    except Exception as error:
        write_json(out, {**figures, "ended": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        if not isinstance(error, DetectorError):
            raise


def matmul_peak(device: torch.device) -> Iterator[Figures]:
    """What the device reaches on one large product."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    first, second = torch.randn(2, side, side, device=device, dtype=dtype)
    for rounds in (20, 200):  # the first ones warm up
        started = time.monotonic()
        for _ in range(rounds):
            product = first @ second
        product[0, 0].item()  # waits for the device
        yield {"tflops": 2 * side**3 * rounds / (time.monotonic() - started) / 1e12, "side": side, "dtype": str(dtype)}


class EndlessSampler(Sampler[list[SampleKey]]):
    """Full batches of all images in turn, with mosaic, epoch after epoch without a pause between them."""

    def __init__(self, images: int, batch_size: int) -> None:
        self.images = images
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        keys = (SampleKey(epoch, image, False) for epoch in count() for image in range(self.images))
        while True:
            yield list(islice(keys, self.batch_size))


def training(arguments: list[str], seconds: float, peaks: dict[str, float | None]) -> Iterator[Figures]:
    """One model: operations, then the images/s from a batch on the GPU, then with the data pipeline."""
    run, state = set_up(parse("train", COMMANDS["train"], arguments))
    size = InputSize.of(run.config.image_size)
    run.network.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run.network(torch.zeros(1, 3, *size, device=run.device))
    tflops_per_image = 3 * counter.get_total_flops() / 1e12
    yield {"forward_gflops_a_image": counter.get_total_flops() / 1e9}

    run.network.train()
    dataset = run.loader.dataset
    assert isinstance(dataset, TrainDataset)
    assert isinstance(run.config.batch_size, int)
    sampler = EndlessSampler(len(run.train_dataset), run.config.batch_size)
    loader = train_loader(dataset, sampler, run.config.workers, run.loader.pin_memory)
    batches = (drawn(batch, run.device) for batch in batches_of(loader))
    waiting = loader.num_workers * (loader.prefetch_factor or 0)  # batches ready before anything is measured
    fixed = next(batches).to(run.device)
    for kind, warm_up, source in (("fixed_batch", WARM_UP_STEPS, repeat(fixed)), ("with_data", waiting, batches)):
        started = time.monotonic()
        images_per_second(run, state, islice(source, warm_up), float("inf"))
        yield {f"{kind}_warm_up_seconds": time.monotonic() - started}
        rate = images_per_second(run, state, source, seconds)
        yield {f"{kind}_images_per_second": rate, f"{kind}_tflops": rate * tflops_per_image}
        for name, peak in peaks.items():
            yield {f"{kind}_fraction_of_{name}_peak": rate * tflops_per_image / peak if peak else None}
        if run.device.type == "cuda":
            yield {"peak_memory_gib": torch.cuda.max_memory_allocated(run.device) / 2**30}


def images_per_second(run: Run, state: TrainState, batches: Iterable[Batch], seconds: float) -> float:
    """Train on `batches` for so many seconds, or until there are no more."""
    started, images = time.monotonic(), 0
    for batch in batches:
        take_step(run, state, [batch])
        images += len(batch.images)
        if time.monotonic() - started > seconds:
            break
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return images / (time.monotonic() - started)


if __name__ == "__main__":
    try:
        main()
    except DetectorError as error:
        sys.exit(f"error: {error}")
