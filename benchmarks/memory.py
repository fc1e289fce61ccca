#!/usr/bin/env python3
"""Resident memory of a training run, the process and its workers, after few epochs and after many: it must not grow.

The run is a small one on drawn images through the command line. Whenever an epoch's line is in metrics.jsonl, the
proportional set size (Pss: what processes share counts once) of the process and all below it is read from /proc.
Exit code 1 if the mean over the last epochs is more than 5 % above that after the first ones.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from detector.demo.scenes import make_dataset

REPOSITORY = Path(__file__).parents[1]
LIMIT = 1.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "run"
        make_dataset(data, seed=1, train=options.images, val=options.images // 3, test=3)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "detector", "train", f"--data={data}", f"--out={out}", "--train.patience=0"),
                *(f"--epochs={options.epochs}", "--image_size=64", "--batch_size=4"),
                *("--train.nominal_batch_size=4", f"--workers={options.workers}", "--augment.weak_aug_epochs=0"),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
        by_epoch: dict[int, list[float]] = {}
        while process.poll() is None:
            epochs = lines(out / "metrics.jsonl")
            if size := memory(process.pid):
                by_epoch.setdefault(epochs, []).append(size)
            time.sleep(0.1)
        if process.returncode != 0:
            return 1
    most = {epoch: max(sizes) for epoch, sizes in by_epoch.items()}
    for epoch in sorted(most):
        print(f"after {epoch:>3} epochs: at most {most[epoch]:.0f} MiB")
    first = statistics.mean(most[epoch] for epoch in (3, 4, 5) if epoch in most)
    last = statistics.mean(most[epoch] for epoch in sorted(most)[-4:-1])
    growth = last / first
    print(f"epochs 3 to 5: {first:.0f} MiB, the last three whole ones: {last:.0f} MiB, {100 * (growth - 1):+.1f} %")
    return int(growth > LIMIT)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def memory(pid: int) -> float:
    """Pss of a process and all below it in MiB; 0 if one of them ended meanwhile."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1024
    return own + sum(memory(int(child)) for child in children)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
