#!/usr/bin/env python3
"""Jobs of all kinds that are stopped and killed at random, for as many minutes as wanted: nothing of them may be left.

In two places at a time run, one after the other, trainings (new ones, then resumed), exports into the run's folder, inference
and benchmarks; most get SIGKILL, SIGTERM, SIGHUP or Ctrl-C (SIGINT) at a random moment. Checked is after each that none of its
processes lives 15 s later, and, if it was not killed, that it has left nothing half-written and no traceback; at the end that
each run can be resumed to its end, that after a last job of each kind no leftover is there, those of the killed included, and
that nothing new lies under /dev/shm. The jobs and moments follow from --seed. Exit code 1 with a line for each fault.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detector.demo.scenes import make_dataset
from detector.utils.fileio import UNFINISHED

REPOSITORY = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")
KINDS = ("train", "train", "export", "infer", "benchmark")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
LATEST = 40.0
"""Seconds after which the signal comes, at most."""
TRAINING = ("--image_size=64", "--batch_size=4", "--epochs=30", "--workers=2", "--train.checkpoint_minutes=0")


class Place:
    """A run with what is made of it, in `folder`; faults: a line for each thing that was not as it must be."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.run = folder, data, folder / "run"
        self.faults: list[str] = []
        self.count: Counter[str] = Counter()
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.run.mkdir()

    def arguments(self, kind: str) -> list[str]:
        best = self.run / "best.safetensors"
        weights = f"--weights={best if best.exists() else 'yolo11n-bccd'}"
        if kind == "train":
            start = [f"--data={self.data}", f"--out={self.run}", *TRAINING]
            return ["train", f"--resume={self.run}"] if (self.run / "last.pt").exists() else ["train", *start]
        if kind == "export":
            return ["export", weights, f"--out={self.run / 'model.onnx'}", "--image_size=64"]
        if kind == "infer" or not best.exists():
            return [
                "infer",
                str(self.data / "train"),
                weights,
                f"--out={self.folder / 'found'}",
                "--save=images,json,csv",
            ]
        return ["benchmark", weights, f"--data={self.data}", f"--out={self.folder / 'measured'}", "--image_size=64"]

    def job(self, arguments: list[str], number: signal.Signals | None = None, moment: float = 900) -> None:
        """Run a job to its end or to a signal, and check what it leaves."""
        before = self.leftovers()
        process = subprocess.Popen(
            [sys.executable, "-m", "detector", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(self.scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        end, errors = "done", ""
        try:
            errors = process.communicate(timeout=moment)[1]
        except subprocess.TimeoutExpired:
            end = "too slow" if number is None else number.name
            process.send_signal(number or signal.SIGKILL)
        try:
            errors += process.communicate(timeout=300)[1] if end != "done" else ""
        except subprocess.TimeoutExpired:
            end = f"{end} without an end"
            process.kill()
        what = f"{self.folder.name}: {arguments[0]}, {end}"
        wrong = end == "too slow" or end.endswith("an end") or "Traceback" in errors
        # by the signal itself: before the program could answer; by SIGINT: `python -m` ends so, whatever the program answers,
        # when a KeyboardInterrupt, caught or not, met Python code that an extension runs (PyRun_String, in imports)
        ended_by = () if number is None else (2, -number, -signal.SIGINT)
        if wrong or process.returncode not in (0, *ended_by):
            self.faults.append(f"{what}, exit code {process.returncode}: {errors}")
        if living := ended_late(process.pid):
            self.faults.append(f"{what}: its processes {living} live on")
            os.killpg(process.pid, signal.SIGKILL)
        if end != "SIGKILL":
            self.faults += [f"{what}: left {path}" for path in self.leftovers() - before]
        self.count[f"{arguments[0]} {end}"] += 1
        print(f"{what}, exit code {process.returncode}", flush=True)

    def leftovers(self) -> set[Path]:
        return set(self.folder.rglob(f"{UNFINISHED}*"))

    def soak(self, deadline: float, seed: int) -> None:
        """Job after job, then one of each kind to its end."""
        chance = random.Random(seed)
        while time.monotonic() < deadline:
            self.job(self.arguments(chance.choice(KINDS)), chance.choice(SIGNALS), chance.uniform(1, LATEST))
        for kind in ("train", "export", "infer"):
            self.job(self.arguments(kind))
        measured = [f"--weights={self.run / 'model.onnx'}", f"--data={self.data}", f"--out={self.folder / 'measured'}"]
        self.job(["benchmark", *measured])
        self.faults += [f"{self.folder.name}: at the end there is {path}" for path in self.leftovers()]


def ended_late(session: int) -> list[int]:
    """The processes of the session that live 15 s later."""
    deadline = time.monotonic() + 15
    while (living := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return living


def processes_of(session: int) -> list[int]:
    """By Linux's /proc, but for those that have ended and wait for their parent to notice."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # by nohup; the jobs would inherit that, and rightly not end
        signal.signal(signal.SIGHUP, lambda *_: None)
    shared = set(SHARED_MEMORY.iterdir())
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        make_dataset(data, seed=1, train=24, val=6, test=3)
        places = [Place(Path(name) / f"place {number}", data) for number in (1, 2)]
        deadline = time.monotonic() + 60 * options.minutes
        with ThreadPoolExecutor(len(places)) as pool:
            list(pool.map(lambda pair: pair[1].soak(deadline, 2 * options.seed + pair[0]), enumerate(places)))
    faults = [fault for place in places for fault in place.faults]
    faults += [f"left in shared memory: {path}" for path in set(SHARED_MEMORY.iterdir()) - shared]
    jobs = sum((place.count for place in places), Counter[str]())
    print(", ".join(f"{count} {what}" for what, count in sorted(jobs.items())))
    print("\n".join(["no fault"] if not faults else [f"fault: {fault}" for fault in faults]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
