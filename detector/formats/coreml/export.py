"""Core ML packages (.mlpackage, a folder) for Apple's systems, which alone can run them."""

import io
import logging
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import torch

from detector.config import ExportConfig
from detector.errors import missing_package
from detector.formats.graphs import HeadGraph, example_images
from detector.images.input_size import InputSize
from detector.models.base import DetectionModel
from detector.weights.files import WeightsInfo

logging.getLogger("coremltools").setLevel(logging.ERROR)  # of versions of torch and scikit-learn, and of whole numbers
try:
    import coremltools
except ImportError as error:
    raise missing_package("--format coreml", error, "mobile") from error


def write_coreml(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """From one letterboxed image, RGB of height x width, to the head's boxes and scores. The metadata are the package's
    own entries for users."""
    images = example_images(InputSize.of(info.image_size), batch=1)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # bars of progress
        warnings.simplefilter("ignore")
        package = coremltools.convert(
            torch.jit.trace(HeadGraph(model), images),  # type: ignore[no-untyped-call]
            inputs=[
                coremltools.ImageType("image", images.shape, scale=1 / 255, color_layout=coremltools.colorlayout.RGB)
            ],
            outputs=[coremltools.TensorType("boxes"), coremltools.TensorType("scores")],
            compute_precision=coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS15,
            skip_model_load=True,
        )
    package.user_defined_metadata.update(info.to_metadata())
    package.save(str(path))
    for entry in path.rglob("*"):  # some are for their owner alone
        entry.chmod((path if entry.is_dir() else path / "Manifest.json").stat().st_mode)
