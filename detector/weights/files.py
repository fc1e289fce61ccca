"""The weights format: safetensors, with metadata that suffice to use the tensors."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detector.config import DEFAULT_CONF, MAX_SIDE, ExportConfig, is_image_size
from detector.errors import WeightsError
from detector.formats.table import exported_suffixes, format_of
from detector.models.base import DetectionModel
from detector.models.catalog import MAX_CLASS_WIDTH, MODELS, create_model
from detector.structures import Categories
from detector.utils.fileio import atomic_write
from detector.weights.shipped import find_weights

FORMAT = "detector-2"
"""Version of the metadata."""
METADATA_TYPES: dict[str, type] = {
    "model": str,
    "class_names": list,
    "category_ids": list,
    "training": dict,
    "metrics": dict,
    "license": str,
}
"""The keys of the header beside `format`, `image_size` and `class_width`, each a string of JSON for a value of this type."""


@dataclass(frozen=True)
class WeightsInfo:
    """What goes with the tensors.

    image_size: side of the square network input in training, in pixels, or (height, width); class_width: channels of the
    head's class branches, None where they are as many as the model has by rule; thresholds: for each label the lowest score
    of a detection, None for `DEFAULT_CONF`. What is None is not in the file.
    """

    model: str
    categories: Categories
    image_size: int | tuple[int, int]
    training: dict[str, Any]
    metrics: dict[str, float | None]
    license: str
    class_width: int | None = None
    thresholds: tuple[float | None, ...] | None = None

    @property
    def class_conf(self) -> list[float] | None:
        """The lowest score of each label; None where the weights don't say."""
        if self.thresholds is None:
            return None
        return [DEFAULT_CONF if score is None else score for score in self.thresholds]

    def to_metadata(self) -> dict[str, str]:
        """Everything as strings of JSON, for the header of a file."""
        fields: dict[str, Any] = {
            "model": self.model,
            "class_names": self.categories.names,
            "category_ids": self.categories.ids,
            "image_size": self.image_size,
            "training": self.training,
            "metrics": self.metrics,
            "license": self.license,
        }
        if self.class_width is not None:
            fields["class_width"] = self.class_width
        if self.thresholds is not None:
            fields["thresholds"] = self.thresholds
        return {"format": FORMAT} | {key: json.dumps(value) for key, value in fields.items()}

    @staticmethod
    def from_metadata(metadata: dict[str, str]) -> "WeightsInfo":
        """The inverse of `to_metadata`. Raises KeyError or ValueError for what was not made by it."""
        if metadata["format"] != FORMAT:
            raise ValueError(f"format is {metadata['format']!r}, not {FORMAT!r}")
        fields = {key: json.loads(metadata[key]) for key in ("image_size", *METADATA_TYPES)}
        for key, kind in METADATA_TYPES.items():
            if not isinstance(fields[key], kind):
                raise ValueError(f"{key} is not a {kind.__name__}")
        if not all(isinstance(value, float | None) for value in fields["metrics"].values()):
            raise ValueError("metrics holds other values than numbers with a decimal point and null")
        names, ids = fields["class_names"], fields["category_ids"]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("class_names are not strings")
        if not all(type(number) is int and abs(number) < 2**63 for number in ids):
            raise ValueError("category_ids are not integers of 64 bits")
        size = fields["image_size"]
        size = tuple(size) if isinstance(size, list) else size
        if not is_image_size(size):
            raise ValueError(f"image_size is neither a multiple of 32 up to {MAX_SIDE} nor a pair of such")
        if not len(names) == len(ids) == len(set(ids)) > 0:
            raise ValueError("class_names and category_ids don't belong together")
        class_width = json.loads(metadata.get("class_width", "null"))
        if class_width is not None and not (type(class_width) is int and 1 <= class_width <= MAX_CLASS_WIDTH):
            raise ValueError(f"class_width is no number from 1 to {MAX_CLASS_WIDTH}")
        thresholds = json.loads(metadata.get("thresholds", "null"))
        if thresholds is not None and not (isinstance(thresholds, list) and len(thresholds) == len(names)):
            raise ValueError("thresholds are no list with a number for each class")
        if not all(each is None or (type(each) in (int, float) and 0 <= each <= 1) for each in thresholds or ()):
            raise ValueError("thresholds holds other values than numbers from 0 to 1 and null")
        return WeightsInfo(
            model=fields["model"],
            categories=Categories(tuple(ids), tuple(names)),
            image_size=size,
            training=fields["training"],
            metrics=fields["metrics"],
            license=fields["license"],
            class_width=class_width,
            thresholds=None if thresholds is None else tuple(thresholds),
        )


def save_weights(path: Path, model: DetectionModel, info: WeightsInfo, half: bool = False) -> None:
    """Write the model's tensors and `info`, atomically; `half`: what convolutions multiply by as float16.

    Batch norms and biases, a few per cent of the size, stay float32: a variance may lie outside of float16's range.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}

    def write(temporary: Path) -> None:
        save_file(state, temporary, metadata=info.to_metadata())
        sort_metadata(temporary)

    atomic_write(path, write)


def write_half(
    path: Path, model: DetectionModel, info: WeightsInfo, _config: ExportConfig, _calibration: None = None
) -> None:
    """Write a weights file of half the size: see `save_weights`."""
    save_weights(path, model, info, half=True)


def write_thresholds(path: Path, thresholds: Sequence[float | None]) -> None:
    """Put `thresholds` into the metadata of a weights file, atomically; its tensors stay as they are, to the byte."""

    def write(temporary: Path) -> None:
        with path.open("rb") as source, temporary.open("wb") as changed:
            header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
            entries = header["__metadata__"] | {"thresholds": json.dumps(thresholds)}
            header["__metadata__"] = dict(sorted(entries.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at a multiple of 8
            changed.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, changed)

    atomic_write(path, write)


def sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata in order: the library writes them in a random one, now equal content is equal bytes."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)


def load_weights(path: str | Path) -> tuple[DetectionModel, WeightsInfo]:
    """The model in evaluation mode, float32, on the CPU; `path` may be the name of shipped weights.

    Raises WeightsError naming the file and what is wrong with it.
    """
    path = find_weights(path)
    if format_of(path) is not None:
        raise WeightsError(
            f"{path}: an exported file only detects; give best.safetensors, the weights it was made from"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a safetensors file ({error}); give best.safetensors of a run;"
            " detector import_weights converts a published checkpoint; names of exported files end in"
            f" {', '.join(exported_suffixes())}"
        ) from error
    try:
        info = WeightsInfo.from_metadata(metadata)
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its metadata lack what a weights file of this program holds ({error}); give best.safetensors of a run;"
            " detector import_weights converts published weights"
        ) from error
    if info.model not in MODELS:
        raise WeightsError(
            f"{path}: made for the model {info.model!r}, this version knows {', '.join(MODELS)}; update the program"
        )
    with torch.device("meta"):  # no memory for what the metadata say until the tensors are known to be of that size
        model = create_model(info.model, len(info.categories), info.class_width)
    expected = model.state_dict()
    if difference := _difference(expected, state):
        raise WeightsError(
            f"{path}: its tensors are not those of {info.model} with {len(info.categories)} classes ({difference});"
            " the file was made for another model or other classes"
        )
    state = {name: tensor.to(expected[name].dtype, copy=True) for name, tensor in state.items()}
    for name, tensor in state.items():
        if flaw := impossible_values(name, tensor):
            raise WeightsError(f"{path}: {name} holds {flaw}; take weights of an earlier epoch")
    model.load_state_dict(state, assign=True)
    return model.eval(), info


def impossible_values(name: str, tensor: Tensor) -> str:
    """What a tensor of a state holds that makes all outputs NaN and that no training leaves there; empty if nothing."""
    if not torch.isfinite(tensor).all():
        return "values that are not finite"
    if name.endswith("running_var") and (tensor < 0).any():
        return "negative variances"
    return ""


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first tensor that is missing, superfluous, or of another shape or kind of numbers, in words; empty if there is none."""
    for name in [*expected, *found]:
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong there"
        if found[name].shape != expected[name].shape:
            return f"{name} has shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
        if found[name].is_floating_point() != expected[name].is_floating_point():
            return f"{name} is {found[name].dtype}, not {expected[name].dtype}"
    return ""
