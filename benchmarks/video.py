#!/usr/bin/env python3
"""A long video through `infer`: every frame comes out, resident memory stays flat, and how many frames a second.

The video is drawn (moving discs), written with PyAV into a temporary folder, and given to `tools/infer.py` as a user
starts it, which annotates it and writes JSON and CSV. Meanwhile the process's resident memory is read from /proc every
half second. Drift: its mean in the last tenth of the run beside that in the second tenth. Exit code 1 if a frame is
missing or the drift is more than 5 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from detector.inference.video import video_writer

REPOSITORY = Path(__file__).parents[1]
WIDTH, HEIGHT = 320, 240
LIMIT = 5.0  # percent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=25, help="frames a second")
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--image-size", type=int, default=160, help="side of the network input in pixels")
    parser.add_argument("--out", help="file for the figures, JSON")
    options = parser.parse_args()
    frames = round(options.minutes * 60 * options.rate)
    with tempfile.TemporaryDirectory() as folder:
        video, out = Path(folder) / "video.mp4", Path(folder) / "out"
        draw_video(video, frames, options.rate)
        process = subprocess.Popen(
            [
                *(sys.executable, "tools/infer.py", str(video), "--weights", options.weights, "--out", str(out)),
                *("--image_size", str(options.image_size), "--conf", "0.1", "--save", "images,json,csv"),
                *("--device", "cpu"),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        sizes = []
        while process.poll() is None:
            if size := resident(process.pid):
                sizes.append(size)
            time.sleep(0.5)
        assert process.stdout is not None
        said = process.stdout.read()
        print(said, end="")
        if process.returncode != 0:
            return 1
        written = count_frames(out / "video.mp4")
        numbers = {entry["frame"] for entry in json.loads((out / "detections.json").read_text())}
    tenth = max(len(sizes) // 10, 1)
    early, late = statistics.mean(sizes[tenth : 2 * tenth] or sizes), statistics.mean(sizes[-tenth - 1 : -1] or sizes)
    drift = 100 * (late / early - 1)
    print(
        f"frames in: {frames}, out: {written}; with detections: {len(numbers)}, the last one {max(numbers, default=-1)}"
    )
    print(f"resident memory: {early:.0f} MiB early, {late:.0f} MiB late ({drift:+.1f} %), at most {max(sizes):.0f} MiB")
    if options.out:
        figures = {"frames_in": frames, "frames_out": written, "early_mib": early, "late_mib": late, "drift": drift}
        Path(options.out).write_text(json.dumps({**figures, "sizes_mib": sizes, "said": said}, indent=1))
    return int(written != frames or abs(drift) > LIMIT)


def draw_video(path: Path, frames: int, rate: int) -> None:
    """Discs that move on straight lines and bounce, the size and colors of stained cells."""
    random = np.random.default_rng(0)
    count = 8
    places, steps = random.uniform(0, 1, (count, 2)) * (WIDTH, HEIGHT), random.uniform(-3, 3, (count, 2))
    with video_writer(path) as write:
        for number in range(frames):
            image = np.full((HEIGHT, WIDTH, 3), (225, 215, 205), np.uint8)
            for index, (x, y) in enumerate(places + steps * number):
                x, y = (abs((value + side) % (2 * side) - side) for value, side in ((x, WIDTH), (y, HEIGHT)))
                cv2.circle(image, (int(x), int(y)), 26, (190, 130 - 10 * index, 140), -1, cv2.LINE_AA)
            write(image, number / rate)


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def resident(pid: int) -> float:
    """MiB of memory that the process has to itself or shares (Rss); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
