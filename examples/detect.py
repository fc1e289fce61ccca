"""python examples/detect.py FILE.onnx IMAGE [CONF]: what a file that takes images finds, with ONNX Runtime alone."""

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime keeps and sends records of its use

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, image, conf = sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.25
onnxruntime.set_default_logger_severity(3)  # else it warns that conf can be changed
session = onnxruntime.InferenceSession(file)
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
pixels = np.asarray(ImageOps.exif_transpose(Image.open(image)).convert("RGB"))
boxes, scores, labels, _ = session.run(None, {"image": pixels, "conf": np.array(conf, np.float32)})
for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
    print(json.dumps({"class": names[label], "score": round(score, 4), "box": [round(side, 2) for side in box]}))
