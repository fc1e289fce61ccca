#!/usr/bin/env python3
"""Whether every kind of exported file finds what the model finds: on all images of a split, and on odd ones.

Each kind is exported as `detector export` does it, loaded by `Detector.load` and compared by the gate's own measure, here on more
images than the gate takes. The odd ones: 1x1, 17x4000 and 5000x4000 pixels, made of the split's first image, and gray.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detector import Detector
from detector.config import ExportConfig
from detector.data.load import load_split
from detector.exporting.export import export
from detector.exporting.verify import FLOAT32, HALF, compare

KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("ONNX, whole image", ".onnx", {"format": "onnx"}),
    ("ONNX, batched", ".onnx", {"format": "onnx", "batched": True}),
    ("ONNX, batched, open size", ".onnx", {"format": "onnx", "batched": True, "dynamic": True}),
    ("ONNX, raw", ".onnx", {"format": "onnx", "raw": True}),
    ("OpenVINO", ".xml", {"format": "openvino"}),
    ("OpenVINO, float16", ".xml", {"format": "openvino", "precision": "float16"}),
    ("TorchScript", ".torchscript", {"format": "torchscript"}),
    ("torch.export", ".pt2", {"format": "torch_export"}),
    ("weights, half precision", ".safetensors", {"format": "safetensors"}),
]
ODD_CONF = 0.001
"""Lowest score in the odd images, which show too little for more."""
ROW = "{:24} {:18} {:>5} {:>10} {:>9} {:>11} {:>11}  {}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset in the COCO layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", default="yolo11n-bccd")
    parser.add_argument("--conf", type=float, default=0.05, help="lowest score in the split's images")
    options = parser.parse_args()
    dataset = load_split(options.data, options.split)
    images = [dataset.read(index).image for index in range(len(dataset))]
    first = images[0]
    sets = {
        f"{options.split} images": images,
        "1x1": [cv2.resize(first, (1, 1))],
        "17x4000": [cv2.resize(first, (17, 4000))],
        "4000x17": [cv2.resize(first, (4000, 17))],
        "5000x4000": [cv2.resize(first, (5000, 4000))],
        "gray": [np.repeat(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2) for each in images[:4]],
    }
    print(ROW.format("file", "images", "count", "detections", "unmatched", "box diff/px", "score diff", ""))
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, suffix, settings) in enumerate(KINDS):
            file = Path(folder) / f"{number}{suffix}"
            export(ExportConfig(weights=options.weights, out=str(file), **settings))
            half = settings.get("precision") == "float16" or settings["format"] == "safetensors"
            iou = 1.0 if half else 0.7  # of boxes alike NMS may choose another after the least rounding
            model, exported = (
                Detector.load(path, iou=iou, max_detections=3000, device="cpu") for path in (options.weights, file)
            )
            for name, some in sets.items():
                model.conf = exported.conf = options.conf if some is images else ODD_CONF
                found = compare([(model, exported)], some, HALF if half else FLOAT32)
                fine = found.passes() or (
                    found.model_detections == 0 and found.unmatched == 0
                )  # nothing in 1x1 is right
                ok &= fine
                counts = f"{found.model_detections}/{found.file_detections}"
                differences = (f"{found.box_difference:.1e}", f"{found.score_difference:.1e}")
                row = (kind, name, found.images, counts, found.unmatched, *differences, "" if fine else "DIFFERS")
                print(ROW.format(*row), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
