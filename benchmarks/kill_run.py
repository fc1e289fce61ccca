#!/usr/bin/env python3
"""Training that is killed over and over ends with the same bits as training that is not.

A small run on drawn pictures, workers and all, through the command line, first undisturbed. Then `--rounds` times the
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

from detector.demo.scenes import make_data_set

REPOSITORY = Path(__file__).parents[1]
TIMES = ("seconds", "images_per_second")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3, help="kills a round, as long as the run is not done before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "run"
        make_data_set(data, seed=1, train=16, val=4, test=3)
        arguments = [
            *(f"--data={data}", f"--out={out}", "--train.epochs=3", "--train.image_size=64", "--train.batch_size=4"),
            *("--train.nominal_batch_size=4", "--train.checkpoint_minutes=0", "--loader.workers=2"),
        ]
        started = time.monotonic()
        train(arguments).communicate()
        seconds = time.monotonic() - started
        expected = outcome(out)
        print(f"undisturbed: {seconds:.0f} s, last.safetensors {expected[0]['last.safetensors'][:16]}")
        kills = sum(
            one_round(number, arguments, out, seconds, options.kills, expected) for number in range(options.rounds)
        )
    print(f"{options.rounds} rounds with {kills} kills: all ended with the bits of the undisturbed run")
    return 0


def one_round(number: int, arguments: list[str], out: Path, seconds: float, most: int, expected: Any) -> int:
    """Kill and resume the run until it is done; the number of kills. Raises SystemExit if the outcome differs."""
    shutil.rmtree(out)
    where: list[str] = []
    while True:
        resumable = (out / "last.pt").exists()
        process = train([f"--resume={out}"] if resumable else arguments)
        try:
            process.communicate(timeout=random.uniform(0.3, 1.0) * seconds if len(where) < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            where.append(place(out))
            continue
        if process.returncode != 0:
            sys.exit(f"round {number + 1}: exit code {process.returncode} after kills at {', '.join(where)}")
        break
    got = outcome(out)
    print(
        f"round {number + 1}: killed at {', '.join(where) or 'no time'}: {'same' if got == expected else 'DIFFERENT'}"
    )
    if got != expected:
        sys.exit(f"round {number + 1} ended with {got[0]}, not {expected[0]}")
    return len(where)


def train(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "tools/train.py", *arguments], cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def place(out: Path) -> str:
    """How far the last complete checkpoint is, and whether a file was being written."""
    import torch

    from detector.training.checkpoint import read_checkpoint

    if not (out / "last.pt").exists():
        return "the start"
    content = read_checkpoint(out / "last.pt", torch.device("cpu"))
    writing = " (writing)" if list(out.glob(".unfinished.*")) else ""
    return f"epoch {content['epoch']} batch {content['tally']['batches']}{writing}"


def outcome(out: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    names = ("best.safetensors", "last.safetensors")
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return digests, [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
