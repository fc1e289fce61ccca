"""ONNX files. ONNX Runtime for Linux and macOS keeps and sends records of its use unless this says no before it is imported."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
