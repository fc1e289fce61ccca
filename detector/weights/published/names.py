"""Published state names and shapes to ours and back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor, nn

from detector.errors import WeightsError
from detector.models.catalog import MAX_CLASS_WIDTH, PUBLISHED, create_model
from detector.nn.head import BINS
from detector.weights.published.layouts import COMMON, Layout

CLASS_WEIGHT, CLASS_BIAS = "head.class_branches.0.2.weight", "head.class_branches.0.2.bias"
"""They tell the number of classes and the width of the class branches."""
GROUPED = {f"head.box_branches.{level}.{name}" for level in range(3) for name in ("1.conv.weight", "2.weight")}
"""The convolutions that are in `box_groups` groups."""


@dataclass(frozen=True)
class Counterpart:
    """What a layout has for one of our networks.

    names: our state name -> theirs; groups: our state name -> groups of that convolution there; shapes: by their name;
    bins: their names of the constants 0..15, which have no place in ours and may be missing.
    """

    names: dict[str, str]
    groups: dict[str, int]
    shapes: dict[str, torch.Size]
    bins: tuple[str, ...]


@lru_cache(maxsize=64)
def counterpart(
    model_name: str, layout: Layout = COMMON, num_classes: int = 80, class_width: int | None = None
) -> Counterpart:
    """Raises WeightsError for a network that was never published."""
    if model_name not in PUBLISHED:
        raise WeightsError(
            f"{model_name} has no published counterpart, so its state has no published names; choose one of"
            f" {', '.join(PUBLISHED)}"
        )
    with torch.device("meta"):
        model = create_model(model_name, num_classes, class_width)
    names = dict(_names(model, layout))
    groups = {ours: layout.box_groups if ours in GROUPED else 1 for ours in names}
    shapes = {names[ours]: _grouped(tensor.shape, groups[ours]) for ours, tensor in model.state_dict().items()}
    head = layout.children[type(model)]["head"]
    return Counterpart(names, groups, shapes, tuple(f"{head}.{name}" for name in layout.bins))


def _names(
    module: nn.Module,
    layout: Layout,
    ours: str = "",
    theirs: str = "",
    flattened: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[str, str]]:
    """Pairs (our state name, published state name) of everything in `module`; `flattened`: more names of children."""
    for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield ours + name, theirs + name
    renamed = {**layout.children.get(type(module), {}), **flattened}
    for name, child in module.named_children():
        inside = {path.removeprefix(f"{name}."): to for path, to in renamed.items() if path.startswith(f"{name}.")}
        prefix = theirs if inside else f"{theirs}{renamed.get(name, name)}."
        yield from _names(child, layout, f"{ours}{name}.", prefix, inside)


def from_published(state: Mapping[str, Tensor], model_name: str, layout: Layout = COMMON) -> dict[str, Tensor]:
    """A published state (names and shapes of the layout) as one of `create_model(model_name, num_classes, class_width)`.

    Both numbers are read off the tensors. Raises WeightsError naming the first superfluous, missing or differently
    shaped entry.
    """
    whose = f"a published {model_name}"
    names = counterpart(model_name, layout).names
    sizes = _head_sizes(state, names[CLASS_BIAS], names[CLASS_WEIGHT], whose)
    theirs = counterpart(model_name, layout, *sizes)
    _require_shapes({name: state[name] for name in state if name not in theirs.bins}, theirs.shapes, whose)
    return {ours: _whole(state[name], theirs.groups[ours]) for ours, name in theirs.names.items()}


def to_published(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """The inverse of `from_published` in the common layout: our state under the published names, in the published order.

    Raises WeightsError as `from_published` does.
    """
    whose = f"a state of {model_name}"
    sizes = _head_sizes(state, CLASS_BIAS, CLASS_WEIGHT, whose)
    theirs = counterpart(model_name, COMMON, *sizes)
    _require_shapes(state, {ours: theirs.shapes[name] for ours, name in theirs.names.items()}, whose)
    bins = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
    return {name: state[ours] for ours, name in theirs.names.items()} | dict.fromkeys(theirs.bins, bins)


def _head_sizes(state: Mapping[str, Tensor], bias: str, weight: str, whose: str) -> tuple[int, int]:
    """Number of classes and width of the class branches; possible ones also where the tensors are not."""
    for name in (bias, weight):
        if name not in state:
            raise WeightsError(f"state has no {name}: it is not {whose}")
    width = state[weight].shape[1] if state[weight].ndim > 1 else 1
    return max(state[bias].numel(), 1), min(max(width, 1), MAX_CLASS_WIDTH)


def _require_shapes(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], whose: str) -> None:
    """Raise WeightsError naming the first superfluous, missing or differently shaped entry."""
    if superfluous := state.keys() - expected.keys():
        raise WeightsError(f"state has {min(superfluous)}, which {whose} does not: it is another model's")
    for name, shape in expected.items():
        if name not in state:
            raise WeightsError(f"state has no {name}: it is not {whose}")
        if state[name].shape != shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(shape)}"
            raise WeightsError(f"{name} has shape {shapes}: the state is not {whose}")


def _grouped(shape: torch.Size, groups: int) -> torch.Size:
    """Shape of the weight of a convolution that is in so many groups."""
    return torch.Size((shape[0], shape[1] // groups, *shape[2:])) if groups > 1 else shape


def _whole(weight: Tensor, groups: int) -> Tensor:
    """The same convolution without groups: a (out, in, height, width) weight with zeros between the groups."""
    if groups == 1:
        return weight
    whole = weight.new_zeros((weight.shape[0], groups * weight.shape[1], *weight.shape[2:]))
    for group, (rows, own) in enumerate(zip(whole.chunk(groups), weight.chunk(groups), strict=True)):
        rows.chunk(groups, dim=1)[group].copy_(own)
    return whole
