"""Whole numbers (int8) in place of floats in a network for OpenVINO, but for the parts that suffer from it."""

import logging
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import UInt8

from detector.errors import ConfigError
from detector.exporting.calibration import LIMIT, Frames, a_few, disturbance, joined, note
from detector.runtimes.openvino_file import OPTIONS, core
from detector.structures import Predictions

try:
    import nncf
    import openvino
except ImportError as error:
    raise ConfigError(f"--precision int8 needs the package {error.name}: pip install 'detector[export]'") from error

Sample = tuple[UInt8[np.ndarray, "height width 3"], Predictions]
"""A frame and what the network in float says of it."""
RANKED = 4
"""Of the samples: NNCF tries every operation on so many."""


def quantized(network: openvino.Model, frames: Frames) -> openvino.Model:
    """The network in int8, calibrated on `frames`. If its predictions are more than `LIMIT` from float's, NNCF measures what
    each operation does to them, and the worst are left in float until they are within it."""
    nncf.set_log_level(logging.WARNING)
    compiled = core().compile_model(network, "CPU", OPTIONS)
    samples = [(frame, predict(compiled, frame)) for frame in a_few(frames)]
    model = nncf.quantize_with_accuracy_control(
        network,
        nncf.Dataset([frame[None] for frame in frames]),
        nncf.Dataset(samples),
        agreement,
        max_drop=LIMIT,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(frames),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=RANKED),
    )
    core.cache_clear()  # NNCF has cores of its own, whose ends are in no order: see `core`; the next one sets that right
    error = 1 - agreement(core().compile_model(model, "CPU", OPTIONS), samples)[0]
    note(error, ", ".join(layers_in_float(model)))
    return model


def agreement(compiled: openvino.CompiledModel, samples: Iterable[Sample]) -> tuple[float, None]:
    """1 - `disturbance`, as NNCF looks for the most."""
    pairs = [(expected, predict(compiled, frame)) for frame, expected in samples]
    return 1 - disturbance(joined([pair[0] for pair in pairs]), joined([pair[1] for pair in pairs])), None


def predict(compiled: openvino.CompiledModel, frame: UInt8[np.ndarray, "height width 3"]) -> Predictions:
    """What the network says of a frame."""
    outputs = compiled({"frames": frame[None]})
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
