#!/usr/bin/env python3
"""Training that is killed over and over ends with the same bits as training that is not.

A small run on drawn images, workers and all, through the command line, first undisturbed. Then `--rounds` times the
same run, killed with SIGKILL at random moments and resumed until it is done. Compared are the SHA-256 of
best.safetensors and last.safetensors and the rows of metrics.jsonl (but for the times). Exit code 1 on a difference.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from detector.demo.scenes import make_dataset
from detector.training.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[1]
TIMES = ("seconds", "images_per_second")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3, help="kills a round, as long as the run is not done before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "run"
        make_dataset(data, seed=1, train=16, val=4, test=3)
        arguments = [
            *(f"--data={data}", f"--out={out}", "--epochs=3", "--image_size=64", "--batch_size=4"),
            *("--train.nominal_batch_size=4", "--train.checkpoint_minutes=0", "--workers=2"),
        ]
        train(arguments).wait()
        expected = result(out)
        print(f"undisturbed: last.safetensors {expected[0]['last.safetensors'][:16]}", flush=True)
        kills = sum(one_round(number, arguments, out, options.kills, expected) for number in range(options.rounds))
    print(f"{options.rounds} rounds with {kills} kills: all ended with the bits of the undisturbed run")
    return 0


def one_round(number: int, arguments: list[str], out: Path, max_kills: int, expected: Any) -> int:
    """Kill and resume the run until it is done; the number of kills. Raises SystemExit if the result differs."""
    shutil.rmtree(out)
    where: list[str] = []
    while True:
        resumable = (out / "last.pt").exists()
        process = train([f"--resume={out}"] if resumable else arguments)
        if len(where) < max_kills and reached_a_random_moment(process, out):
            process.kill()
            process.wait()
            where.append(place(out))
        elif process.wait() == 0:
            break
        else:
            sys.exit(f"round {number + 1}: exit code {process.returncode} after kills at {', '.join(where)}")
    got = result(out)
    same = "same" if got == expected else "DIFFERENT"
    print(f"round {number + 1}: killed after {', '.join(where) or 'it was done'}: {same}", flush=True)
    if got != expected:
        sys.exit(f"round {number + 1} ended with {got[0]}, not {expected[0]}")
    return len(where)


def reached_a_random_moment(process: "subprocess.Popen[bytes]", out: Path) -> bool:
    """Wait until the process has written last.pt some times, and for part of a step; False if it has ended before."""
    enough, seen = random.randint(1, 8), {written(out)}
    while len(seen) <= enough and process.poll() is None:
        time.sleep(0.002)
        seen.add(written(out))
    time.sleep(random.uniform(0, 0.3))
    return process.poll() is None


def written(out: Path) -> int:
    """When last.pt was written, in ns; 0 if it was not."""
    try:
        return (out / "last.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def train(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "detector", "train", *arguments], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )


def place(out: Path) -> str:
    """How far the last complete checkpoint is, and whether a file was being written."""
    if not (out / "last.pt").exists():
        return "the start"
    content = read_checkpoint(out / "last.pt", torch.device("cpu"))
    writing = " (writing)" if list(out.glob(".unfinished.*")) else ""
    return f"epoch {content['epoch']} batch {content['epoch_stats']['batches']}{writing}"


def result(out: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    names = ("best.safetensors", "last.safetensors")
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return digests, [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
