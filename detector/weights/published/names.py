"""Published state names to ours and back. The tables follow the published layout: numbered layers, cv1, cv2, m."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from detector.errors import WeightsError
from detector.models.catalog import PUBLISHED, create_model
from detector.models.yolo11 import YOLO11
from detector.models.yolov9 import YOLOv9, YOLOv9E
from detector.nn.conv import RepConv
from detector.nn.csp import C3K, C3K2, Bottleneck
from detector.nn.gelan import ELAN1, SPPELAN, AConv, ADown, RepBottleneck, RepCSP, RepNCSPELAN
from detector.nn.head import BINS, DetectionHead
from detector.nn.spatial_attention import C2PSA, AttentionBlock, SpatialAttention
from detector.nn.spff import SPFF

CHILDREN: dict[type[nn.Module], dict[str, str]] = {
    Bottleneck: {"conv1": "cv1", "conv2": "cv2"},
    C3K: {"deep": "cv1", "bypass": "cv2", "merge": "cv3", "blocks": "m"},
    C3K2: {"split": "cv1", "merge": "cv2", "blocks": "m"},
    SPFF: {"reduce": "cv1", "merge": "cv2"},
    C2PSA: {"split": "cv1", "merge": "cv2", "blocks": "m"},
    AttentionBlock: {"attention": "attn", "feed_forward": "ffn"},
    SpatialAttention: {"position": "pe", "project": "proj"},
    DetectionHead: {"box_branches": "cv2", "class_branches": "cv3"},
    YOLO11: {
        "stem": "model",  # its two convolutions are layers 0 and 1
        "stage2": "model.2",
        "down3": "model.3",
        "stage3": "model.4",
        "down4": "model.5",
        "stage4": "model.6",
        "down5": "model.7",
        "stage5": "model.8",
        "pooling": "model.9",
        "attention": "model.10",
        "top_down4": "model.13",
        "top_down3": "model.16",
        "neck_down4": "model.17",
        "bottom_up4": "model.19",
        "neck_down5": "model.20",
        "bottom_up5": "model.22",
        "head": "model.23",
    },
    RepConv: {"wide": "conv1", "pointwise": "conv2"},
    RepBottleneck: {"conv1": "cv1", "conv2": "cv2"},
    RepCSP: {"deep": "cv1", "bypass": "cv2", "merge": "cv3", "blocks": "m"},
    ELAN1: {"split": "cv1", "first": "cv2", "second": "cv3", "merge": "cv4"},
    RepNCSPELAN: {"split": "cv1", "first": "cv2", "second": "cv3", "merge": "cv4"},
    AConv: {"conv": "cv1"},
    ADown: {"conv": "cv1", "pooled": "cv2"},
    SPPELAN: {"reduce": "cv1", "merge": "cv5"},
    YOLOv9: {
        "backbone.stem": "model",  # its two convolutions are layers 0 and 1
        "backbone.stage2": "model.2",
        "backbone.down3": "model.3",
        "backbone.stage3": "model.4",
        "backbone.down4": "model.5",
        "backbone.stage4": "model.6",
        "backbone.down5": "model.7",
        "backbone.stage5": "model.8",
        "pooling": "model.9",
        "top_down4": "model.12",
        "top_down3": "model.15",
        "neck_down4": "model.16",
        "bottom_up4": "model.18",
        "neck_down5": "model.19",
        "bottom_up5": "model.21",
        "head": "model.22",
    },
    YOLOv9E: {
        "backbone.first.stem.0": "model.1",
        "backbone.first.stem.1": "model.2",
        "backbone.first.stage2": "model.3",
        "backbone.first.down3": "model.4",
        "backbone.first.stage3": "model.5",
        "backbone.first.down4": "model.6",
        "backbone.first.stage4": "model.7",
        "backbone.first.down5": "model.8",
        "backbone.first.stage5": "model.9",
        "backbone.linears.0": "model.10",
        "backbone.linears.1": "model.11",
        "backbone.linears.2": "model.12",
        "backbone.linears.3": "model.13",
        "backbone.linears.4": "model.14",
        "backbone.second.stem.0": "model.15",
        "backbone.second.stem.1": "model.17",
        "backbone.second.stage2": "model.19",
        "backbone.second.down3": "model.20",
        "backbone.second.stage3": "model.22",
        "backbone.second.down4": "model.23",
        "backbone.second.stage4": "model.25",
        "backbone.second.down5": "model.26",
        "backbone.second.stage5": "model.28",
        "pooling": "model.29",
        "top_down4": "model.32",
        "top_down3": "model.35",
        "neck_down4": "model.36",
        "bottom_up4": "model.38",
        "neck_down5": "model.39",
        "bottom_up5": "model.41",
        "head": "model.42",
    },
}
"""For each module: our child's name -> the published one; a child that is not listed has the same name in both.

A dotted name is a grandchild of a child that the published layout doesn't have."""

CLASS_BIAS = "head.class_branches.0.2.bias"  # its length is the number of classes


def _published_names(
    module: nn.Module, ours: str = "", theirs: str = "", flattened: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, str]]:
    """Pairs (our state name, published state name) of everything in `module`; `flattened`: more entries as in CHILDREN."""
    for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield ours + name, theirs + name
    renamed = {**CHILDREN.get(type(module), {}), **flattened}
    for name, child in module.named_children():
        inside = {path.removeprefix(f"{name}."): to for path, to in renamed.items() if path.startswith(f"{name}.")}
        prefix = theirs if inside else f"{theirs}{renamed.get(name, name)}."
        yield from _published_names(child, f"{ours}{name}.", prefix, inside)


def _names(model_name: str, num_classes: int) -> tuple[nn.Module, dict[str, str]]:
    if model_name not in PUBLISHED:
        raise WeightsError(
            f"{model_name} has no published counterpart, so its state has no published names; choose one of"
            f" {', '.join(PUBLISHED)}"
        )
    with torch.device("meta"):
        model = create_model(model_name, num_classes)
    return model, dict(_published_names(model))


def _bins_name(names: Mapping[str, str]) -> str:
    """Published name of the constant 0..15 that decodes distances."""
    layer = names["head.box_branches.0.2.weight"].removesuffix("cv2.0.2.weight")
    return f"{layer}dfl.conv.weight"


def _num_classes(state: Mapping[str, Tensor], class_bias: str, whose: str) -> int:
    if class_bias not in state:
        raise WeightsError(f"state has no {class_bias}: it is not {whose}")
    return max(state[class_bias].numel(), 1)


def _require_entries(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], whose: str) -> None:
    """Raise WeightsError naming the first superfluous, missing or differently shaped entry."""
    if superfluous := state.keys() - expected.keys():
        raise WeightsError(f"state has {min(superfluous)}, which {whose} does not: it is another model's")
    for name, tensor in expected.items():
        if name not in state:
            raise WeightsError(f"state has no {name}: it is not {whose}")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            raise WeightsError(f"{name} has shape {shapes}: the state is not {whose}")


def from_published(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """A published state (names as in the published checkpoints) as a state of `create_model(model_name, classes)`.

    The number of classes is read off the tensors. Raises WeightsError naming the first superfluous, missing or
    differently shaped entry.
    """
    whose = f"a published {model_name}"
    _, names = _names(model_name, 1)
    model, names = _names(model_name, _num_classes(state, names[CLASS_BIAS], whose))
    expected = {names[ours]: tensor for ours, tensor in model.state_dict().items()}
    bins = _bins_name(names)
    _require_entries({theirs: tensor for theirs, tensor in state.items() if theirs != bins}, expected, whose)
    return {ours: state[theirs] for ours, theirs in names.items()}


def to_published(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """The inverse of `from_published`: our state under the published names, in the published order.

    Raises WeightsError as `from_published` does.
    """
    whose = f"a state of {model_name}"
    model, names = _names(model_name, _num_classes(state, CLASS_BIAS, whose))
    _require_entries(state, model.state_dict(), whose)
    published = {theirs: state[ours] for ours, theirs in names.items()}
    published[_bins_name(names)] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
    return published
