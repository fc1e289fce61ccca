#!/usr/bin/env python3
"""What --augment.device cuda takes off a CPU core: both ways in one run, with the default augmentation and mosaic in every image.

worker    one process that reads images: its CPU milliseconds an image, and the images/s that arrive; with a full cache of decoded
          images, and decoding each. cpu: the worker draws the images; cuda: it works out how, and copies what they show
drawing   a batch on --device: images/s, and how the pixels differ from those that the worker draws, in levels of 255
training  images/s of a network in bf16, fed by few workers, both ways; on CUDA only

CPU milliseconds bear with company on the machine, images/s don't. The two ways take turns, and the medians count.
So far this has run on a CPU only, in a tiny form (--device cpu --quick): it has NOT run on CUDA yet.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch
from data_pipeline import Epochs, cpu_seconds
from train_gpu import DRAWN_IMAGES, Figures, in_its_own_process, training, training_arguments

from detector.config import AugmentConfig
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.data.loader import TrainDataset, UndrawnBatch, collate, train_loader
from detector.data.sampler import EpochSampler, SampleKey
from detector.demo.scenes import make_dataset
from detector.errors import DetectorError
from detector.structures import Batch
from detector.utils.device import resolve_device
from detector.utils.fileio import write_json

WAYS: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
MODEL, TRAINING_WORKERS = "yolo11n", 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of a dataset that detector train --data would take; drawn if not given")
    parser.add_argument("--out", default="runs/augment_device.json", help="file for all figures")
    parser.add_argument("--device", default="cuda", help="what draws; with cpu there is no training")
    parser.add_argument("--image-size", type=int, default=640, help="side of the network input in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images a batch")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way")
    parser.add_argument("--seconds", type=float, default=4, help="length of a measurement of training")
    parser.add_argument("--budget", type=float, default=25, help="seconds for each training")
    parser.add_argument("--quick", action="store_true", help="few images of 64 px")
    options = parser.parse_args()
    images = 12 if options.quick else DRAWN_IMAGES
    if options.quick:
        options.image_size, options.batch, options.rounds = 64, 4, 1
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    report: Figures = {"device": name, "torch": torch.__version__, "options": vars(options)}
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        data = options.data or str(folder / "drawn")
        if options.data is None:
            make_dataset(Path(data), train=images, val=3, test=3)
        dataset = load_split(data, "train")
        report["worker"] = worker(dataset, options)
        report["drawing"] = drawing(dataset, options, device)
        write_json(Path(options.out), report)
        for section in ("worker", "drawing"):
            print(f"{section}:", *(f"\n  {key}: {value}" for key, value in report[section].items()), flush=True)
        options.workers = TRAINING_WORKERS
        for way in WAYS if device.type == "cuda" else ():
            arguments = [*training_arguments(options, data, MODEL, folder / way), f"--augment.device={way}"]
            work = [arguments, options.seconds, {}]
            found = in_its_own_process(training, work, folder / "figures.json", options.budget)
            report[f"training, {way}"] = found
            write_json(Path(options.out), report)
            print(f"training, {way}:", *(f"\n  {key}: {value}" for key, value in found.items()), flush=True)
    print(f"{name}; all figures: {options.out}")


def worker(dataset: CocoDataset, options: argparse.Namespace) -> Figures:
    """Medians of a worker, both ways, and their ratio."""
    costs: dict[str, list[float]] = defaultdict(list)
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for cache_gb, cache in ((4.0, "full cache"), (0.0, "no cache")):
            for way in WAYS:
                cost, rate = passes(dataset, way, cache_gb, options)
                costs[f"{cache}, {way}"].append(cost)
                rates[f"{cache}, {way}"].append(rate)
    figures: Figures = {}
    for kind in costs:
        figures[f"{kind}: CPU ms an image"] = round(statistics.median(costs[kind]), 3)
        figures[f"{kind}: images/s"] = round(statistics.median(rates[kind]), 1)
    for cache in ("full cache", "no cache"):
        ratios = [cpu / cuda for cpu, cuda in zip(*(costs[f"{cache}, {way}"] for way in WAYS), strict=True)]
        figures[f"{cache}: times less CPU"] = [round(each, 2) for each in sorted(ratios)]
    return figures


def passes(
    dataset: CocoDataset, way: Literal["cpu", "cuda"], cache_gb: float, options: argparse.Namespace
) -> tuple[float, float]:
    """CPU ms an image of one worker, and images/s, in the passes over the dataset after the first, which fills the cache."""
    images = TrainDataset(dataset, options.image_size, AugmentConfig(device=way), 0, cache_gb=cache_gb)
    epochs = Epochs(EpochSampler(len(dataset), options.batch, seed=0))
    loader = train_loader(images, epochs, 1, pin_memory=False)
    for epochs.numbers in (range(0, 1), range(1, 3)):
        started, own, together = time.perf_counter(), time.process_time(), cpu_seconds()
        count = sum(len(batch.targets) for batch in loader)
        ms = 1000 * (cpu_seconds() - together - (time.process_time() - own)) / count
    return ms, count / (time.perf_counter() - started)


def drawing(dataset: CocoDataset, options: argparse.Namespace, device: torch.device) -> Figures:
    """Batches drawn on the device: how fast, and how far from what a worker draws."""
    keys = [SampleKey(0, index % len(dataset), False, repeat=index // len(dataset)) for index in range(options.batch)]
    drawn, packed = (
        collate([images[key] for key in keys])
        for images in (TrainDataset(dataset, options.image_size, AugmentConfig(device=way), 0) for way in WAYS)
    )
    assert isinstance(drawn, Batch)
    assert isinstance(packed, UndrawnBatch)
    if device.type == "cuda":
        packed = packed.pin_memory()
    difference = (packed.draw(device).images.cpu().short() - drawn.images.short()).abs()
    rate = 0.0
    for rounds in (3, 10 if device.type == "cpu" else 100):  # the first ones warm up
        started = time.monotonic()
        for _ in range(rounds):
            images = packed.draw(device).images
        images[0, 0, 0, 0].item()  # waits for the device
        rate = rounds * len(images) / (time.monotonic() - started)
    figures = {"images/s": round(rate, 1), "largest difference": int(difference.max())}
    if device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures | {"mean difference": float(difference.float().mean())}


if __name__ == "__main__":
    try:
        main()
    except DetectorError as error:
        sys.exit(f"error: {error}")
