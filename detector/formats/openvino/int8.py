"""int8 quantization of a network for OpenVINO, except for the layers that suffer from it."""

import logging
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import UInt8

from detector.errors import missing_package
from detector.formats.int8 import (
    MAX_ERROR,
    CalibrationImages,
    concat_predictions,
    print_int8_report,
    quantization_error,
    subsample,
)
from detector.formats.openvino.runtime import OPTIONS, core
from detector.structures import Predictions

try:
    import nncf
    import openvino
except ImportError as error:
    raise missing_package("--precision int8", error, "export") from error

Measured = tuple[UInt8[np.ndarray, "height width 3"], Predictions]
"""An image and the float network's predictions for it."""
RANKED = 4
"""Number of samples on which NNCF tries every operation."""


def quantize(network: openvino.Model, images: CalibrationImages) -> openvino.Model:
    """The network in int8, calibrated on `images`. If its predictions are more than `MAX_ERROR` from float's, NNCF measures what
    each operation does to them, and the worst are left in float until they are within it."""
    nncf.set_log_level(logging.WARNING)
    compiled = core().compile_model(network, "CPU", OPTIONS)
    samples = [(image, predict(compiled, image)) for image in subsample(images)]
    model = nncf.quantize_with_accuracy_control(
        network,
        nncf.Dataset([image[None] for image in images]),
        nncf.Dataset(samples),
        similarity,
        max_drop=MAX_ERROR,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=RANKED),
    )
    core.cache_clear()  # NNCF has cores of its own, whose ends are in no order: see `core`; the next one sets that right
    error = 1 - similarity(core().compile_model(model, "CPU", OPTIONS), samples)[0]
    print_int8_report(error, ", ".join(layers_in_float(model)))
    return model


def similarity(compiled: openvino.CompiledModel, samples: Iterable[Measured]) -> tuple[float, None]:
    """1 - `quantization_error`, as NNCF maximizes."""
    pairs = [(expected, predict(compiled, image)) for image, expected in samples]
    return 1 - quantization_error(
        concat_predictions([pair[0] for pair in pairs]), concat_predictions([pair[1] for pair in pairs])
    ), None


def predict(compiled: openvino.CompiledModel, image: UInt8[np.ndarray, "height width 3"]) -> Predictions:
    """Predictions of the network for an image."""
    outputs = compiled({"images_uint8": image[None]})
    return Predictions(*(torch.from_numpy(outputs[name].copy()) for name in ("boxes", "scores")))


def layers_in_float(network: openvino.Model) -> list[str]:
    """The convolutions and linear layers whose weights are floats."""
    names = []
    for layer in network.get_ordered_ops():
        if layer.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            weights = layer.input_value(1).get_node()
            while weights.get_input_size():
                weights = weights.input_value(0).get_node()
            if weights.get_type_name() == "Constant" and weights.get_element_type().is_real():
                names.append(layer.get_friendly_name().partition("/")[0])
    return names
