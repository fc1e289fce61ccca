"""Whole numbers (int8) in place of floats in a network for OpenVINO, but for the parts that suffer from it."""

import nncf
import openvino

from detector.exporting.calibration import Frames


def quantized(network: openvino.Model, frames: Frames) -> openvino.Model:
    dataset = nncf.Dataset([frame[None] for frame in frames])
    return nncf.quantize(network, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(frames))
