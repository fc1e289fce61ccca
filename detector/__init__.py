"""A YOLO-style object detector with attention: train on COCO-format data, run on images, export.

The names below are imported when first used, so that `import detector` is quick and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.config import EvaluateConfig, ExportConfig, InferConfig, PredictionConfig, TrainConfig
    from detector.evaluation.evaluate import evaluate
    from detector.exporting.export import export
    from detector.inference.detector import Detector
    from detector.inference.streaming import stream
    from detector.inference.tiles import TiledDetector
    from detector.models.catalog import create_model
    from detector.training.callbacks import Callback
    from detector.training.loop import train
    from detector.weights.files import load_weights as load_model

__all__ = [
    "Callback",
    "Detector",
    "EvaluateConfig",
    "ExportConfig",
    "InferConfig",
    "PredictionConfig",
    "TiledDetector",
    "TrainConfig",
    "create_model",
    "evaluate",
    "export",
    "load_model",
    "stream",
    "train",
]

_HOMES = {
    "Callback": ("detector.training.callbacks", "Callback"),
    "Detector": ("detector.inference.detector", "Detector"),
    "create_model": ("detector.models.catalog", "create_model"),
    "evaluate": ("detector.evaluation.evaluate", "evaluate"),
    "export": ("detector.exporting.export", "export"),
    "load_model": ("detector.weights.files", "load_weights"),
    "TiledDetector": ("detector.inference.tiles", "TiledDetector"),
    "stream": ("detector.inference.streaming", "stream"),
    "train": ("detector.training.loop", "train"),
    **{
        name: ("detector.config", name)
        for name in ("EvaluateConfig", "ExportConfig", "InferConfig", "PredictionConfig", "TrainConfig")
    },
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detector' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
