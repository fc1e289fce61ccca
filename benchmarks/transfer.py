#!/usr/bin/env python3
"""What weights are worth as a start: AP after fine-tuning on each dataset of a suite, from scratch and from given weights.

Each run is `detector train` of the same network, recipe and input; only data, start, epochs and seed differ. Its AP is that
of best.safetensors on the validation split; with --test on the test split, too: for a final table only, choices rest on
validation. A run is a line of JSON in --results, and is not repeated; one that was stopped is resumed from --out.
The table is over all lines of that network and input size: mean over the datasets, for each seed, and the gain over scratch.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from detector.config import SCRATCH
from detector.utils.fileio import file_sha256
from detector.weights.shipped import find_weights

SUITE = ("suite/underwater", "suite/pcb", "suite/okra", "suite/tables", "suite/football", "bccd")
KEY = ("model", "image_size", "dataset", "start", "options", "epochs", "seed")
"""What tells runs apart."""
Run = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    parser.add_argument("--datasets", nargs="+", default=SUITE, help="folders in it")
    parser.add_argument("--starts", nargs="+", default=[SCRATCH], help=f"weights files or names, or {SCRATCH}")
    parser.add_argument("--epochs", nargs="+", type=int, default=[20, 40])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--model", default="yolo11n")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--options", nargs="*", default=[], help="further options of detector train: train.patience=0")
    parser.add_argument("--test", action="store_true", help="evaluate on the test split, too")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs, outside the repository")
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines, one a run; lines are added")
    options = parser.parse_args(arguments)
    known, lock = read_results(options.results), threading.Lock()
    runs = [
        {"dataset": dataset, "start": start_name(start), "options": sorted(options.options), "epochs": epochs}
        | {"seed": seed, "weights": start, "model": options.model, "image_size": options.image_size}
        for epochs, seed, start, dataset in product(options.epochs, options.seeds, options.starts, options.datasets)
    ]

    def measure(run: Run) -> None:
        line = next((line for line in known if same(line, run)), None)
        if line is None or (options.test and "test" not in line):
            line = train(run, options) if line is None else line
            if options.test:
                line = line | {"test": evaluate(run, options, "test")}
            with lock:
                add_result(options.results, line)
                print(json.dumps(line), flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(measure, runs))
    network = (options.model, options.image_size)
    print(table([line for line in read_results(options.results) if (line["model"], line["image_size"]) == network]))
    return 0


def start_name(weights: str) -> str:
    """Its file's name and the first digits of its SHA-256: other weights under an old name are other runs."""
    if weights == SCRATCH:
        return weights
    path = find_weights(weights)
    return f"{path.stem} {file_sha256(path)[:8]}"


def same(line: Run, run: Run) -> bool:
    return all(line[key] == run[key] for key in KEY)


def read_results(path: Path) -> list[Run]:
    """The last line of each run."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({json.dumps([line[key] for key in KEY]): line for line in map(json.loads, lines)}.values())


def add_result(path: Path, line: Run) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def folder_of(run: Run, out: Path) -> Path:
    digest = hashlib.sha256(json.dumps(run["options"]).encode()).hexdigest()[:6] if run["options"] else "default"
    parts = (
        run["model"],
        run["image_size"],
        run["dataset"].replace("/", "-"),
        run["start"].replace(" ", "-"),
        digest,
        run["epochs"],
        run["seed"],
    )
    return out / "_".join(map(str, parts))


def train(run: Run, options: argparse.Namespace) -> Run:
    """Train or resume; the line of the run."""
    out = folder_of(run, options.out)
    if (out / "last.pt").exists():
        arguments = [f"--resume={out}"]
    else:
        arguments = [f"--data={options.data / run['dataset']}", f"--out={out}", f"--model={run['model']}"]
        arguments += [f"--image_size={run['image_size']}", f"--epochs={run['epochs']}", f"--seed={run['seed']}"]
        arguments += [f"--weights={run['weights']}", "--workers=0", "--train.patience=0", "--loggers=[]"]
        arguments += [f"--{option}" for option in run["options"]]
    since = time.monotonic()
    detector("train", *arguments)
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = max(rows, key=lambda row: row["AP"])
    return {key: run[key] for key in KEY} | {
        "val": best["AP"],
        "best_epoch": best["epoch"],
        "last": rows[-1]["AP"],
        "seconds": round(time.monotonic() - since),
        "commit": commit(),
        "processor": processor(),
    }


def evaluate(run: Run, options: argparse.Namespace, split: str) -> float:
    """AP of the run's best weights on a split."""
    out = folder_of(run, options.out)
    result = out / split
    arguments = [f"--weights={out / 'best.safetensors'}", f"--data={options.data / run['dataset']}", f"--split={split}"]
    detector("evaluate", *arguments, f"--out={result}", "--workers=0")
    metrics = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
    shutil.rmtree(result)
    ap: float = metrics["AP"]
    return ap


def detector(*arguments: str) -> None:
    """Run a command with one thread; its output is shown if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "detector", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return next((name for name in ("avx512_bf16", "avx512f", "avx2") if name in flags), "other")


def table(lines: Sequence[Run]) -> str:
    """A row for each start, options and epochs: AP by dataset, their mean, and the gain over scratch on the same runs."""
    datasets = sorted({line["dataset"] for line in lines})
    rows = ["| start | options | epochs | seeds | " + " | ".join(map(short, datasets)) + " | mean | over scratch |"]
    rows.append("|" + " --- |" * (6 + len(datasets)))
    groups = sorted({(line["epochs"], line["start"] != SCRATCH, line["start"], *line["options"]) for line in lines})
    for epochs, _, start, *extra in groups:
        own = [line for line in lines if (line["epochs"], line["start"], line["options"]) == (epochs, start, extra)]
        values = {dataset: [line["val"] for line in own if line["dataset"] == dataset] for dataset in datasets}
        cells = [with_spread(values[dataset]) if values[dataset] else "" for dataset in datasets]
        mean = statistics.fmean(statistics.fmean(each) for each in values.values() if each)
        seeds = sorted({line["seed"] for line in own})
        gains = [
            line["val"] - other["val"]
            for line in own
            for other in lines
            if other["start"] == SCRATCH
            and same(other | {"start": "", "options": []}, line | {"start": "", "options": []})
        ]
        gain = f"{statistics.fmean(gains):+.3f} ({len(gains)} runs)" if gains else ""
        head = f"| {start} | {' '.join(extra)} | {epochs} | {', '.join(map(str, seeds))} | "
        rows.append(head + " | ".join(cells) + f" | {mean:.3f} | {gain} |")
    return "\n".join(rows)


def short(dataset: str) -> str:
    return dataset.rpartition("/")[2]


def with_spread(values: Sequence[float]) -> str:
    """Mean, and half the range over the seeds."""
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
