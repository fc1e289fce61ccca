#!/usr/bin/env python3
"""Does everything that a CUDA GPU changes give what the CPU gives? Each check has a process of its own and a budget in seconds.

outputs       raw outputs of three networks in float64, on the CPU and on the GPU: the largest difference, at most 1e-9
losses        the losses of 20 steps from the same weights in float32: the largest relative difference of the first and of all
resume        a deterministic run that is stopped by SIGTERM and resumed has the weights of the undisturbed one, bit for bit
bf16          AP on drawn scenes after a short training in float32 and in bfloat16
auto          the batch size that --batch_size auto chooses at 640 px, and that it trains
out of memory a batch that can't fit ends in one line with the size that does

So far this has run on a CPU only, in a tiny form (--device cpu --quick): it has NOT run on CUDA yet.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train_gpu import Figures, in_its_own_process

from detector.cli import COMMANDS, parse
from detector.demo.scenes import make_dataset
from detector.models.catalog import create_model
from detector.training.loop import accumulation_groups, set_learning_rate
from detector.training.setup import set_up
from detector.training.step import take_step
from detector.utils.device import resolve_device
from detector.utils.fileio import file_sha256, write_json

NETWORKS = ("yolo11n", "yolo11n-cross", "yolov9t")
OUTPUT_TOLERANCE = 1e-9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/gpu_checks.json", help="file for all figures")
    parser.add_argument("--device", default="cuda", help="cpu only shows that this program works")
    parser.add_argument("--quick", action="store_true", help="few images and steps")
    parser.add_argument("--budget", type=float, default=90, help="seconds for each check")
    options = parser.parse_args()
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    report: Figures = {"device": name, "torch": torch.__version__, "checks": {}}
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        data = folder / "drawn"
        make_dataset(data, train=8 if options.quick else 192, val=4 if options.quick else 48, test=3)
        common = [f"--data={data}", f"--device={options.device}", "--weights=scratch", "--loggers=[]"]
        common += ["--image_size=64", "--batch_size=4"] if options.quick else ["--image_size=320", "--batch_size=16"]
        work: dict[str, tuple[Any, ...]] = {
            "outputs": (outputs, options.device),
            "losses": (losses, [*common, "--workers=0", f"--out={folder / 'losses'}"], 3 if options.quick else 20),
            "resume": (resume, [*common, "--train.deterministic=true"], folder, 2 if options.quick else 4),
            "bf16": (bf16, common, folder, 1 if options.quick else 12),
        }
        if device.type == "cuda":
            large = [f"--data={data}", "--weights=scratch", "--loggers=[]", "--epochs=1"]
            work["auto"] = (command, [*large, "--batch_size=auto", "--image_size=640"], folder / "auto")
            work["out of memory"] = (command, [*large, "--batch_size=4096", "--image_size=1280"], folder / "memory")
        for check, (function, *arguments) in work.items():
            figures = in_its_own_process(function, arguments, folder / "figures.json", options.budget)
            report["checks"][check] = figures
            write_json(Path(options.out), report)  # each time: what is measured is kept whatever happens to the rest
            print(f"{check}:", *(f"\n  {key}: {value}" for key, value in figures.items()), flush=True)
    failed = [
        check for check, figures in report["checks"].items() if "ended" in figures or figures.get("same") is False
    ]
    print(f"{name}; failed: {', '.join(failed) or 'nothing'}; all figures: {options.out}")
    return int(bool(failed))


def outputs(device: str) -> Iterator[Figures]:
    """Largest differences of the raw outputs, CPU and `device`, in float64."""
    images = torch.rand(2, 3, 192, 256, generator=torch.Generator().manual_seed(1)).double()
    worst = 0.0
    for name in NETWORKS:
        torch.manual_seed(0)
        model = create_model(name, 80).double().eval()
        with torch.inference_mode():
            there = [each.cpu() for each in tensors(model.to(device)(images.to(device)))]
            here = tensors(model.cpu()(images))
        difference = max(float((one - other).abs().max()) for one, other in zip(here, there, strict=True))
        worst = max(worst, difference)
        yield {name: difference}
    yield {"same": worst <= OUTPUT_TOLERANCE}


def tensors(value: object) -> list[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors(part)] if isinstance(value, tuple | list) else []


def losses(arguments: list[str], steps: int) -> Iterator[Figures]:
    """Relative differences of the losses of the first steps, CPU and GPU, from the same weights and images."""
    found = []
    for device in ("cpu", None):
        given = [*arguments, *([f"--device={device}"] if device else []), "--train.precision=fp32"]
        run, state = set_up(parse("train", COMMANDS["train"], given))
        run.network.train()
        rows: list[list[float]] = []
        while len(rows) < steps:
            run.sampler.set_epoch(state.epoch)
            for batches in accumulation_groups(run):
                before = state.stats.losses.clone()
                set_learning_rate(run, state)
                take_step(run, state, batches)
                rows.append((state.stats.losses - before).tolist())
            state.epoch += 1
        found.append(torch.tensor(rows[:steps], dtype=torch.float64))
    relative = ((found[0] - found[1]).abs() / found[0].abs().clamp_min(1e-9)).amax(1)
    yield {"first step": float(relative[0]), f"{steps} steps": float(relative.max()), "same": float(relative[0]) < 1e-3}


def train(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "detector", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    printed = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {printed[-300:]}")
    return printed


def resume(arguments: list[str], folder: Path, epochs: int) -> Iterator[Figures]:
    finish(train(*arguments, f"--epochs={epochs}", f"--out={folder / 'whole'}"))
    stopped = train(*arguments, f"--epochs={epochs}", f"--out={folder / 'stopped'}")
    while stopped.poll() is None and not (folder / "stopped" / "metrics.jsonl").exists():
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    yield {"stopped with exit code": stopped.returncode}
    finish(train(f"--resume={folder / 'stopped'}"))
    one, other = (file_sha256(folder / name / "last.safetensors") for name in ("whole", "stopped"))
    yield {"same": one == other}


def bf16(arguments: list[str], folder: Path, epochs: int) -> Iterator[Figures]:
    for precision in ("fp32", "bf16"):
        out = folder / precision
        finish(train(*arguments, f"--epochs={epochs}", f"--train.precision={precision}", f"--out={out}"))
        row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        yield {f"AP {precision}": row["AP"], f"images/s {precision}": row["images_per_second"]}


def command(arguments: list[str], out: Path) -> Iterator[Figures]:
    """What a training that may fail says last."""
    process = train(*arguments, f"--out={out}")
    lines = process.communicate()[0].splitlines()
    said = [line for line in lines if "batch_size" in line or "batch size" in line or line.startswith("error")]
    yield {"exit code": process.returncode, "said": said[-3:] or lines[-3:]}


if __name__ == "__main__":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic runs need
    sys.exit(main())
