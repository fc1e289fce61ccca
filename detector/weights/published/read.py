"""Published checkpoints of YOLO11 and YOLOv9: which network it is, its state under our names, and what goes with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from detector.config import MAX_SIDE
from detector.errors import WeightsError
from detector.nn.head import BINS
from detector.utils.fileio import require_regular
from detector.weights.files import FORMAT, impossible_values
from detector.weights.published.archive import SIGNATURE, read_archive
from detector.weights.published.layouts import COMMON, MIT, Layout
from detector.weights.published.names import CLASS_WEIGHT, counterpart, from_published
from detector.weights.published.unpickle import Record, shown

PARTS = ("ema", "model", "state_dict")
"""Where a checkpoint has its network; the EMA weights are preferred."""
MAX_PARTS = 100_000
DEEPEST = 30
LONGEST_NAME = 64
"""Modules and tensors of a network, how deep they may lie and how long their names may be: more is a knot, no network."""
MIT_MARK = "22.heads.0.class_conv.2.weight"
"""An entry of MultimediaTechLab's layout alone."""
MIT_AUXILIARY = re.compile(r"(2[3-9]|[3-9]\d)\.")
"""The layers after the head."""
EMA = re.compile(r"(^|[._])ema[._]")
NORM_EPS = 1e-3
CONVERT = "convert it to safetensors where you trust it"

Owners: TypeAlias = dict[str, tuple[str, ...]]
"""State name -> names of the publisher's classes around it, outermost first."""


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    model: its name here; state: for `create_model(model, num_classes, class_width)`, float32; part: where in the file it
    was; class_names: whatever the file holds as such, by rule a list or a table label -> name; image_size: of the
    training, (height, width) in pixels, multiples of 32; license: as stated. The last three are None where the file has
    none. mit: in the layout of MultimediaTechLab/YOLO.
    """

    model: str
    state: dict[str, Tensor]
    num_classes: int
    class_width: int
    part: str
    class_names: Any
    image_size: int | tuple[int, int] | None
    license: str | None
    mit: bool


def read_published(path: Path) -> Published:
    """Reads a checkpoint of torch.save (modules or a state) or a safetensors file, without running code from it.

    Raises WeightsError, one line that names the file, what is wrong and the remedy.
    """
    try:
        return _understood(_read(path))
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror}); name a published checkpoint") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _read(path: Path) -> Any:
    require_regular(path)
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(SIGNATURE):
        return read_archive(path)
    if start[8:] == b"{":  # the header, after its length
        try:
            with safe_open(path, framework="pt") as tensors:
                if "format" in (tensors.metadata() or {}) and tensors.metadata()["format"] == FORMAT:
                    raise WeightsError("a weights file of this program already; use it as it is")
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118, it is no dict
        except SafetensorError as error:
            raise WeightsError(f"a damaged safetensors file ({shown(str(error))}); get it again") from error
    raise WeightsError(
        f"neither a zip archive of torch.save (1.6 or newer) nor a safetensors file, or cut off at its start; {CONVERT}"
    )


def _understood(content: Any) -> Published:
    part, network = _network(content)
    entries, owners = _modules_entries(network) if isinstance(network, Record) else (_tensors(network), {})
    layout, prefix, entries = _main_network(entries)
    model, state = _recognized(entries, owners, layout)
    num_classes, class_width, *_ = state[CLASS_WEIGHT].shape
    file, attributes = _table(content), _table(network)
    settings = _table(file.get("train_args")) or _table(attributes.get("args"))
    license = file.get("license")
    return Published(
        model=model,
        state=state,
        num_classes=num_classes,
        class_width=class_width,
        part=f"{part} ({prefix.removesuffix('.')})" if prefix else part,
        class_names=attributes.get("names", file.get("names")),
        image_size=_image_size(settings.get("imgsz")),
        license=license if isinstance(license, str) and license.isprintable() else None,
        mit=layout is MIT,
    )


def _table(value: Any) -> dict[Any, Any]:
    """The entries of a dict or the attributes of an object; none of anything else."""
    if isinstance(value, Record):
        value = value.state
    return value if isinstance(value, dict) else {}


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def _network(content: Any) -> tuple[str, Record | dict[Any, Any]]:
    """Where the network is, and its module or state."""
    if isinstance(content, Record):
        return "the module", content
    if isinstance(content, dict):
        for part in PARTS:
            if isinstance(content.get(part), Record) or _tensors(_table(content.get(part))):
                return part, content[part]
        if _tensors(content):
            return "the state", content
    raise WeightsError(
        f"holds no network (neither a module nor tensors, nor such under {', '.join(PARTS)}); give a detection checkpoint"
    )


def _modules_entries(network: Record) -> tuple[dict[str, Tensor], Owners]:
    """Tensors of the records of modules, as `state_dict` would have them, and for each the publisher's classes around."""
    entries: dict[str, Tensor] = {}
    owners: Owners = {}
    parts = 0
    waiting: list[tuple[str, Record, tuple[str, ...]]] = [("", network, ())]
    while waiting:
        prefix, module, around = waiting.pop()
        attributes = _table(module)
        parameters, buffers, modules = (_table(attributes.get(k)) for k in ("_parameters", "_buffers", "_modules"))
        names = [*parameters, *buffers, *modules]
        parts += 1 + len(names)
        possible = all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names)
        if not possible or parts > MAX_PARTS or prefix.count(".") > DEEPEST:
            raise WeightsError("its modules have no end or no names; get the file again from its publisher")
        _require_known_computation(prefix, module, attributes)
        if not module.cls.module.startswith("torch."):
            around = (*around, module.cls.name)
        passing = attributes.get("_non_persistent_buffers_set")
        kept = {name: value for name, value in buffers.items() if not (isinstance(passing, set) and name in passing)}
        for name, tensor in _tensors(parameters | kept).items():
            entries[prefix + name] = tensor
            owners[prefix + name] = around
        children = [(f"{prefix}{name}.", child, around) for name, child in modules.items() if isinstance(child, Record)]
        waiting += reversed(children)
    return entries, owners


def _require_known_computation(prefix: str, module: Record, attributes: Mapping[Any, Any]) -> None:
    """Raise WeightsError for what the names and shapes don't tell: another activation, or batch norms with another eps."""
    where = f"its module {shown(prefix.removesuffix('.'))} is {shown(str(module.cls))}"
    if module.cls.module == "torch.nn.modules.activation" and module.cls.name != "SiLU":
        raise WeightsError(f"{where}, but the networks here have SiLU only; train this variant anew")
    eps = attributes.get("eps", NORM_EPS)
    if module.cls.name == "BatchNorm2d" and not (isinstance(eps, float) and eps == NORM_EPS):
        raise WeightsError(f"{where} with eps {shown(eps)}, but the networks here have {NORM_EPS}")


def _main_network(entries: dict[str, Tensor]) -> tuple[Layout, str, dict[str, Tensor]]:
    """The layout, and of the MIT one the prefix of the network's names and its entries without it.

    There the network may lie under a prefix, beside other tensors (those of a loss, say) and beside its moving average,
    which is preferred. The auxiliary branch is dropped: training makes a new one.
    """
    prefixes = [name.removesuffix(MIT_MARK) for name in entries if name == MIT_MARK or name.endswith(f".{MIT_MARK}")]
    if not prefixes:
        return COMMON, "", entries
    prefix = next((prefix for prefix in prefixes if EMA.search(prefix)), prefixes[0])
    network = {name.removeprefix(prefix): tensor for name, tensor in entries.items() if name.startswith(prefix)}
    return MIT, prefix, {name: tensor for name, tensor in network.items() if not MIT_AUXILIARY.match(name)}


def _recognized(entries: Mapping[str, Tensor], owners: Owners, layout: Layout) -> tuple[str, dict[str, Tensor]]:
    """The model whose published names and shapes these are, and its state, float32."""
    if any(name.endswith(".conv.bias") for name in entries) and not any(".bn." in name for name in entries):
        raise WeightsError(
            "the checkpoint is fused (its batch norms are folded into the convolutions) and can't be trained or converted;"
            " give the one from before fusing"
        )
    for model in (name for name in layout.models if entries.keys() <= _known_names(name, layout)):
        try:
            state = from_published(entries, model, layout)
        except WeightsError:
            continue
        state = {name: _converted(name, tensor) for name, tensor in state.items()}
        for name in counterpart(model, layout).bins:
            if name in entries and not torch.equal(entries[name].flatten().float(), torch.arange(float(BINS))):
                raise WeightsError(f"{shown(name)} differs from what {model} has there; it can't be converted")
        return model, state
    raise WeightsError(_difference(entries, owners, layout))


def _known_names(model: str, layout: Layout) -> set[str]:
    theirs = counterpart(model, layout)
    return {*theirs.shapes, *theirs.bins}


def _converted(name: str, tensor: Tensor) -> Tensor:
    """Float32 (counters stay integers), in memory of its own."""
    if tensor.is_floating_point() == name.endswith("num_batches_tracked"):
        raise WeightsError(f"the tensor for {name} is {tensor.dtype}; give an unquantized checkpoint")
    dtype = torch.float32 if tensor.is_floating_point() else torch.int64
    converted = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if flaw := impossible_values(name, converted):
        raise WeightsError(f"the tensor for {name} holds {flaw}; take a checkpoint of an earlier epoch")
    return converted


def _difference(entries: Mapping[str, Tensor], owners: Owners, layout: Layout) -> str:
    """Why this is none of the layout's models: what can't be mapped, beside the nearest of them."""

    def likeness(model: str) -> tuple[int, int]:
        shapes = counterpart(model, layout).shapes
        shared = entries.keys() & shapes.keys()
        return len(shared), sum(entries[name].shape == shapes[name] for name in shared)

    nearest = max(layout.models, key=likeness)
    strange = next((name for name in entries if name not in _known_names(nearest, layout)), None)
    if strange is not None:
        owner = f" in {shown(' > '.join(owners[strange]))}" if strange in owners else ""
        reason = f"{shown(strange)}{owner} has no place in {nearest}, the nearest"
    else:
        try:
            from_published(entries, nearest, layout)
        except WeightsError as error:
            reason = str(error)
    known = ", ".join(layout.models)
    return f"no detection network of those known here ({known}): {reason}; give a detection checkpoint of one of them"


def _image_size(size: Any) -> int | tuple[int, int] | None:
    """Sides rounded up to multiples of 32, as the published training does."""
    if size is None:
        return None
    sides = size if isinstance(size, list | tuple) else [size]
    if not (1 <= len(sides) <= 2 and all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides)):
        raise WeightsError(f"its image size {shown(size)} is none; the file is damaged, get it again")
    rounded = [-(-side // 32) * 32 for side in sides]
    return rounded[0] if len(set(rounded)) == 1 else (rounded[0], rounded[1])
