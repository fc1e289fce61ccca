#!/usr/bin/env python3
"""Whole training on a CPU, this project's and a peer's in turn: images/s over full epochs, and their ratio.

Both train yolo11n from scratch on the same photographs, epoch after epoch with data, validation and checkpoint. An
epoch lasts from the moment its predecessor's line of figures is on disk (metrics.jsonl here, results.csv there) until
its own is: whole rounds of the same work for both, whatever each of them counts as an epoch's time. The first epoch,
with start-up, label cache and compilation, is thereby skipped; so is what follows the last line.

The peer is run as a black box through its command line, which the environment variable PEER_YOLO names; without it
only the project is measured. benchmarks/README.md says how to set it up and what is set equal for both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as detector.cli does, before torch is imported

import torch
import yaml

from detector.cli import COMMANDS, parse
from detector.data.coco import CocoDataset
from detector.data.load import load_split
from detector.data.workers import batches_of
from detector.errors import DetectorError
from detector.images.input_size import InputSize
from detector.models.base import scale_pixels
from detector.training.loss import detection_loss
from detector.training.setup import set_up

IMAGE_SIZE, BATCH, WORKERS = 320, 16, 2
PEER_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
PARTS = ("data", "forward", "loss", "backward", "optimizer", "EMA")
LOOK_EVERY = 0.05  # seconds between two looks at a file of figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a dataset that detector train --data would take")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a training, the first one not measured")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each, in turn")
    parser.add_argument("--compile", action="store_true", help="give the project --train.compile true")
    options = parser.parse_args()
    if options.epochs < 2 or options.rounds < 1:
        parser.error("--epochs must be at least 2 (the first one is not measured), --rounds at least 1")

    peer = os.environ.get("PEER_YOLO")
    splits = {}
    for name in ("train", "val"):
        splits[name] = load_split(options.data, name)
    images = len(splits["train"])
    print(f"{images} + {len(splits['val'])} images, yolo11n, {IMAGE_SIZE} px, batch {BATCH}, {WORKERS} workers")
    if peer is None:
        print("PEER_YOLO is not set: the project alone is measured")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if peer is not None:
            prepare_peer(peer, splits, folder)
        print(f"{'round':>5} {'project':>9} {'peer':>9} {'ratio':>7}   (images/s of whole epochs)", flush=True)
        ratios = []
        for number in range(1, options.rounds + 1):
            out = folder / f"own{number}"
            command = [sys.executable, "-m", "detector.cli", "train", *project_arguments(options, out)]
            own = images / epoch_seconds(command, out / "metrics.jsonl", 0, options.epochs)
            if peer is None:
                print(f"{number:>5} {own:>9.2f} {'–':>9} {'–':>7}", flush=True)
                continue
            out = folder / f"peer{number}"
            command = peer_command(peer, folder / "data.yaml", out, options.epochs)
            theirs = images / epoch_seconds(command, out / "results.csv", 1, options.epochs, PEER_ENVIRONMENT)
            ratios.append(own / theirs)
            print(f"{number:>5} {own:>9.2f} {theirs:>9.2f} {ratios[-1]:>7.2f}", flush=True)
        if ratios:
            print(f"project : peer = {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")
        spent = seconds_by_part(project_arguments(options, folder / "parts"))
    total = sum(spent.values())
    print(f"the project's training part, one epoch: {total:.2f} s, {images / total:.2f} images/s, of which")
    print("  " + ", ".join(f"{part} {100 * seconds / total:.1f} %" for part, seconds in spent.items()))


def project_arguments(options: argparse.Namespace, out: Path) -> list[str]:
    """Of `detector train`; its defaults are an AdamW step for every batch."""
    settings = {
        "data": Path(options.data).absolute(),
        "out": out,
        "model": "yolo11n",
        "weights": "scratch",
        "epochs": options.epochs,
        "image_size": IMAGE_SIZE,
        "batch_size": BATCH,
        "device": "cpu",
        "augment.weak_aug_epochs": 0,
        "workers": WORKERS,
    }
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [*arguments, "--train.compile", "true"] if options.compile else arguments


def prepare_peer(peer: str, splits: dict[str, CocoDataset], folder: Path) -> None:
    """The same images in the label format that the peer documents, and its settings, both in `folder`."""
    PEER_ENVIRONMENT.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true")
    subprocess.run(
        [peer, "settings", "sync=False"],
        env=PEER_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    for split, images in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(len(images)):
            image = images.path(index).absolute()
            (folder / "images" / split / f"{index}{image.suffix}").symlink_to(image)
            width, height = images.size(index)
            boxes = images.boxes(index) / (width, height, width, height)
            lines = [
                f"{label} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"
                for label, (x1, y1, x2, y2) in zip(images.labels(index), boxes, strict=True)
            ]
            (folder / "labels" / split / f"{index}.txt").write_text("".join(lines), encoding="utf-8")
    names = dict(enumerate(splits["train"].categories.names))
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def peer_command(peer: str, data: Path, out: Path, epochs: int) -> list[str]:
    """Its defaults, but a step for every batch (nbs) and mosaic to the end, as here; no plots, nothing downloaded."""
    settings = {
        "model": "yolo11n.yaml",
        "data": data,
        "epochs": epochs,
        "imgsz": IMAGE_SIZE,
        "batch": BATCH,
        "nbs": BATCH,
        "workers": WORKERS,
        "close_mosaic": 0,
        "device": "cpu",
        "amp": False,
        "plots": False,
        "project": out.parent,
        "name": out.name,
    }
    return [peer, "detect", "train", *(f"{key}={value}" for key, value in settings.items())]


def epoch_seconds(
    command: Sequence[str], figures: Path, header: int, epochs: int, environment: dict[str, str] | None = None
) -> float:
    """Run a training that adds a line an epoch to `figures` after `header` lines; mean seconds of epochs 2 to the last."""
    seen: list[float] = []
    with tempfile.TemporaryFile("w+") as log:
        training = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=figures.parent.parent, env=environment
        )
        try:
            ended = None
            while ended is None:
                time.sleep(LOOK_EVERY)
                ended = training.poll()
                lines = figures.read_text(encoding="utf-8").count("\n") - header if figures.exists() else 0
                if lines > len(seen):
                    seen.append(time.monotonic())
        finally:
            training.kill()
        if ended != 0 or len(seen) != epochs:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no output"])[-1]  # the peer's traceback is not for reading
            sys.exit(f"{command[0]} ended with {ended} after {len(seen)} of {epochs} epochs: {last}")
    return (seen[-1] - seen[0]) / (epochs - 1)


def seconds_by_part(arguments: Sequence[str]) -> dict[str, float]:
    """Where the second of two epochs goes; "data" is the wait for the workers, who read while the rest computes."""
    run, state = set_up(parse("train", COMMANDS["train"], arguments))
    state.model.train()
    for epoch in range(2):
        run.sampler.set_epoch(epoch)
        spent, last = dict.fromkeys(PARTS, 0.0), time.perf_counter()
        for batch in batches_of(run.loader):
            marks = [time.perf_counter()]
            raw = state.model(scale_pixels(batch.images).contiguous(memory_format=torch.channels_last))
            marks.append(time.perf_counter())
            total = detection_loss(
                raw, run.anchors(InputSize(*batch.images.shape[2:])), batch, run.config.loss
            ).total() * len(batch.images)
            marks.append(time.perf_counter())
            total.backward()  # type: ignore[no-untyped-call]
            marks.append(time.perf_counter())
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), run.config.train.clip_gradient_norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
            marks.append(time.perf_counter())
            state.ema.update(state.model)
            marks.append(time.perf_counter())
            for part, before, after in zip(PARTS, [last, *marks], marks, strict=False):
                spent[part] += after - before
            last = marks[-1]
    return spent


if __name__ == "__main__":
    try:
        main()
    except DetectorError as error:
        sys.exit(f"error: {error}")
