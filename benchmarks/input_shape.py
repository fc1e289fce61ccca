#!/usr/bin/env python3
"""What a network input that the image fills costs in AP and saves in time, beside the square of the training.

    benchmarks/input_shape.py DATA=WEIGHTS [DATA=WEIGHTS ...] --splits val test

"Filled" is the smallest input of multiples of 32 px that holds the image, scaled as for the square. One image at a time, both
inputs in turn, so that the ratio of times is of one run; AP by pycocotools' figures in pixels of the original images.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detector.data.layouts import Split
from detector.data.load import load_split
from detector.evaluation.evaluate import SplitDetections, score
from detector.images.input_size import STEP, InputSize
from detector.images.letterbox import Letterbox
from detector.inference.detector import Detector, to_tensor


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="DATA=WEIGHTS")
    parser.add_argument("--splits", nargs="+", default=["val", "test"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"{'dataset':12} {'split':5} {'square':>7} {'filled':>7} {'difference':>10} {'time':>6}")
    for pair in options.pairs:
        data, _, weights = pair.partition("=")
        for split in options.splits:
            square, filled, ratio = measure(data, weights, split, options.threads)
            name = Path(data).name
            print(f"{name:12} {split:5} {square:7.4f} {filled:7.4f} {filled - square:+10.4f} {ratio:6.2f}", flush=True)
    return 0


def measure(data: str, weights: str, split: Split, threads: int) -> tuple[float, float, float]:
    """AP with the square and with the filled input, and the second's time as a fraction of the first's."""
    detector = Detector.load(weights, conf=0.001, threads=threads)
    dataset = load_split(data, split, detector.categories)
    found, seconds = [SplitDetections(), SplitDetections()], [0.0, 0.0]
    for index in range(len(dataset)):
        image = dataset.read(index).image
        square = detector.letterbox(image.shape[1], image.shape[0])
        for case, letterbox in enumerate((square, fill(square))):
            start = time.perf_counter()
            [detections] = detector.detect_inputs([to_tensor(letterbox.apply(image))], [letterbox])
            seconds[case] += time.perf_counter() - start
            found[case].detections[index] = detections
    aps = [score([each], dataset, 0.01).metrics["AP"] for each in found]
    return aps[0], aps[1], seconds[1] / seconds[0]


def fill(square: Letterbox) -> Letterbox:
    """The image at the same scale on the smallest input that holds it."""
    width, height = (math.ceil(side / STEP) * STEP for side in square.resized)
    size = InputSize(height, width)
    return Letterbox(square.width, square.height, size.width, size.height)


if __name__ == "__main__":
    sys.exit(main())
