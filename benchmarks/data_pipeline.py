#!/usr/bin/env python3
"""Augmented training images/s: read, mosaic, fliplr, colors, collate; no network.

The default augmentation with mosaic in every image, batches as training takes them, without workers (one core) and
with one and two; without the image cache, in the first pass over an empty one (cold), and once it is full (warm). Rounds
go through all of these in turn. Workers are started before the clock is. Wall-clock figures want a machine that does
nothing else; the CPU time an image, of all processes together, bears with company (hyper-threads still slow it down).

--peer FILE compares with figures that were published with the task (`data_pipeline.images_per_s` in FILE, for "0 workers"
and "2 workers"): measured on a machine of the same kind, but not in the same run, so the ratio is only about right.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: what is measured is one core

import cv2
import torch
from torch.utils.data import Sampler

from detector.config import AugmentConfig, TrainLoopConfig
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.data.loader import TrainDataset, train_loader
from detector.data.sampler import EpochSampler, SampleKey

WORKERS = (0, 1, 2)
EPOCHS = {"off": 2, "cold": 1, "warm": 4}
"""Passes over the dataset that are timed as one."""


class Epochs(Sampler[list[SampleKey]]):
    """The batches of the epochs in `numbers`, without a pause between them."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.numbers = range(0)
        self._sampler = sampler

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for number in self.numbers:
            self._sampler.set_epoch(number)
            yield from self._sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a dataset that detector train --data would take")
    parser.add_argument("--image-size", type=int, default=640, help="pixels")
    parser.add_argument("--batch", type=int, default=16, help="images a batch")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind")
    parser.add_argument("--peer", type=Path, help="JSON file with a peer's figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    images = load_split(options.data, "train")
    peer = json.loads(options.peer.read_text())["data_pipeline"]["images_per_s"] if options.peer else {}
    print(f"{len(images)} images, {options.image_size} px, batch {options.batch}, {options.rounds} rounds")
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    costs: dict[tuple[int, str], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for workers in WORKERS:
            for caches in (("off",), ("cold", "warm")):
                for cache, rate, cost in measure(images, workers, caches, options.image_size, options.batch):
                    rates[workers, cache].append(rate)
                    costs[workers, cache].append(cost)

    print(f"{'workers':>7} {'cache':>5} {'images/s':>10} {'spread':>15} {'CPU ms each':>11} {'to the peer':>11}")
    for (workers, cache), values in rates.items():
        middle = statistics.median(values)
        cost = statistics.median(costs[workers, cache])
        theirs = peer.get(f"{workers} workers")
        ratio = f"{middle / theirs:.2f}" if theirs else "–"
        spread = f"{min(values):.1f}..{max(values):.1f}"
        print(f"{workers:>7} {cache:>5} {middle:>10.1f} {spread:>15} {cost:>11.2f} {ratio:>11}")


def measure(
    dataset: CocoDataset, workers: int, caches: tuple[str, ...], side: int, batch: int
) -> Iterator[tuple[str, float, float]]:
    """For each state of one cache its name, images/s, and CPU milliseconds per image."""
    cache_gb = 0.0 if caches == ("off",) else TrainLoopConfig.cache_gb
    images = TrainDataset(dataset, side, AugmentConfig(), 0, cache_gb=cache_gb)
    epochs = Epochs(EpochSampler(len(dataset), batch, seed=0))
    loader = train_loader(images, epochs, workers, pin_memory=False)
    for _ in loader:  # no epochs yet: starts the workers
        pass
    for cache in caches:
        epochs.numbers = range(epochs.numbers.stop, epochs.numbers.stop + EPOCHS[cache])
        started, used = time.perf_counter(), cpu_seconds()
        count = sum(len(each.images) for each in loader)
        yield cache, count / (time.perf_counter() - started), 1000 * (cpu_seconds() - used) / count


def cpu_seconds() -> float:
    """Of this process and its workers."""
    spent = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


if __name__ == "__main__":
    main()
