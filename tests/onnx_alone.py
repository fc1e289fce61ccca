"""Runs an exported file as somebody would who has onnxruntime, NumPy, Pillow and OpenCV, and nothing of this project.

usage: onnx_alone.py MODEL PICTURE CONF -> JSON on stdout: the file's metadata and detections [x1, y1, x2, y2, score, label]
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime
from PIL import Image


def letterbox(picture: Image.Image, side: int) -> tuple[np.ndarray, float, float, int, int]:
    scale = min(side / picture.width, side / picture.height)
    width, height = round(picture.width * scale), round(picture.height * scale)
    left, top = (side - width) // 2, (side - height) // 2
    frame = np.full((side, side, 3), 114, np.uint8)
    resized = cv2.resize(np.asarray(picture), (width, height), interpolation=cv2.INTER_LINEAR)
    frame[top : top + height, left : left + width] = resized
    return frame, width / picture.width, height / picture.height, left, top


def nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, limit: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            shared = np.prod(np.maximum(high - low, 0))
            areas = np.prod(boxes[[i, j], 2:] - boxes[[i, j], :2], axis=1).sum()
            if labels[i] == labels[j] and shared > limit * (areas - shared):
                break
        else:
            kept.append(int(i))
    return kept[:300]


def main() -> None:
    model, file, conf = sys.argv[1], sys.argv[2], float(sys.argv[3])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    picture = Image.open(file).convert("RGB")
    frame, scale_x, scale_y, left, top = letterbox(picture, json.loads(metadata["image_size"]))
    images = frame.transpose(2, 0, 1)[None].astype(np.float32) / 255
    boxes, scores = (output[0] for output in session.run(["boxes", "scores"], {"images": images}))
    labels, best = scores.argmax(axis=1), scores.max(axis=1)
    likely = best >= conf
    boxes, best, labels = boxes[likely].astype(np.float64), best[likely], labels[likely]
    kept = nms(boxes, best, labels, 0.7)
    boxes = (boxes[kept] - [left, top, left, top]) / [scale_x, scale_y, scale_x, scale_y]
    boxes = boxes.clip(0, [picture.width, picture.height] * 2)
    found = [[*box, float(s), int(k)] for box, s, k in zip(boxes.tolist(), best[kept], labels[kept], strict=True)]
    assert not {"torch", "detector"} & sys.modules.keys()
    print(json.dumps({"metadata": metadata, "detections": found}))


if __name__ == "__main__":
    main()
