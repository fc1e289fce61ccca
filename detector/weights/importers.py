"""Published state names to ours and back. The tables follow the published layout: numbered layers, cv1, cv2, m."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from detector.errors import WeightsError
from detector.models.catalog import create_model
from detector.models.yolo11 import YOLO11
from detector.nn.attention import C2PSA, AttentionBlock, SpatialAttention
from detector.nn.csp import C3K, C3K2, Bottleneck
from detector.nn.head import BINS, DetectionHead
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
}
"""For each module: our child's name -> the published one; a child that is not listed has the same name in both."""


def _published_names(module: nn.Module, ours: str = "", theirs: str = "") -> Iterator[tuple[str, str]]:
    """Pairs (our state name, published state name) of everything in `module`."""
    for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield ours + name, theirs + name
    renamed = CHILDREN.get(type(module), {})
    for name, child in module.named_children():
        yield from _published_names(child, f"{ours}{name}.", f"{theirs}{renamed.get(name, name)}.")


def _names(model_name: str, num_classes: int) -> tuple[nn.Module, dict[str, str]]:
    with torch.device("meta"):
        model = create_model(model_name, num_classes)
    return model, dict(_published_names(model))


def _bins_name(names: Mapping[str, str]) -> str:
    """Published name of the constant 0..15 that decodes distances."""
    layer = names["head.box_branches.0.2.weight"].removesuffix("cv2.0.2.weight")
    return f"{layer}dfl.conv.weight"


def from_published(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """A published state (names as in the published checkpoints) as a state of `create_model(model_name, classes)`.

    The number of classes is read off the tensors. Raises WeightsError naming the first missing, superfluous or
    differently shaped entry.
    """
    _, names = _names(model_name, 1)
    class_bias = names["head.class_branches.0.2.bias"]
    if class_bias not in state:
        raise WeightsError(f"state has no {class_bias}: it is not a published {model_name}")
    model, names = _names(model_name, state[class_bias].shape[0])
    expected = model.state_dict()
    superfluous = state.keys() - names.values() - {_bins_name(names)}
    if superfluous:
        raise WeightsError(f"state has {min(superfluous)}, which {model_name} does not: it is another model's")
    for ours, theirs in names.items():
        if theirs not in state:
            raise WeightsError(f"state has no {theirs}: it is not a published {model_name}")
        if state[theirs].shape != expected[ours].shape:
            shapes = f"{tuple(state[theirs].shape)} instead of {tuple(expected[ours].shape)}"
            raise WeightsError(f"{theirs} has shape {shapes}: the state is not a published {model_name}")
    return {ours: state[theirs] for ours, theirs in names.items()}


def to_published(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """The inverse of `from_published`: our state under the published names, in the published order."""
    num_classes = state["head.class_branches.0.2.bias"].shape[0]
    _, names = _names(model_name, num_classes)
    published = {theirs: state[ours] for ours, theirs in names.items() if ours in state}
    published[_bins_name(names)] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
    return published
