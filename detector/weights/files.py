"""The weights format: safetensors, with metadata that suffice to use the tensors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from detector.errors import ConfigError, WeightsError
from detector.fileio import atomic_write
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.structures import Categories

FORMAT = "detector-1"


@dataclass(frozen=True)
class WeightsInfo:
    """What goes with the tensors. `image_size` is the side of the network input in training, in pixels."""

    model: str
    categories: Categories
    image_size: int
    training: dict[str, Any]
    metrics: dict[str, float | None]
    licence: str

    def to_metadata(self) -> dict[str, str]:
        """Everything as strings of JSON, for the header of a file."""
        fields: dict[str, Any] = {
            "model": self.model,
            "class_names": self.categories.names,
            "category_ids": self.categories.ids,
            "image_size": self.image_size,
            "training": self.training,
            "metrics": self.metrics,
            "licence": self.licence,
        }
        return {"format": FORMAT} | {key: json.dumps(value) for key, value in fields.items()}

    @staticmethod
    def from_metadata(metadata: dict[str, str]) -> "WeightsInfo":
        """The inverse of `to_metadata`. Raises KeyError or ValueError for what was not made by it."""
        if metadata["format"] != FORMAT:
            raise ValueError(f"unknown format {metadata['format']}")
        fields = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
        return WeightsInfo(
            model=fields["model"],
            categories=Categories(tuple(fields["category_ids"]), tuple(fields["class_names"])),
            image_size=fields["image_size"],
            training=fields["training"],
            metrics=fields["metrics"],
            licence=fields["licence"],
        )


def save_weights(path: Path, model: DetectionModel, info: WeightsInfo) -> None:
    """Write the model's tensors and `info`, atomically."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    atomic_write(path, lambda temporary: save_file(state, temporary, metadata=info.to_metadata()))


def load_weights(path: Path) -> tuple[DetectionModel, WeightsInfo]:
    """The model in evaluation mode, float32, on the CPU. Raises WeightsError naming the file and what is wrong with it."""
    if not path.is_file():
        raise WeightsError(f"--weights: there is no file {path}; training leaves best.safetensors in its --out folder")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a safetensors file ({error}); give best.safetensors of a run, not a checkpoint"
        ) from error
    try:
        info = WeightsInfo.from_metadata(metadata)
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: its metadata lack what a weights file of this program holds ({error}); give best.safetensors of a run"
        ) from error
    try:
        model = create_model(info.model, len(info.categories))
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: its tensors are not those of {info.model} with {len(info.categories)} classes"
            f" ({str(error).splitlines()[-1].strip()}); the file was made for another model or other classes"
        ) from error
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():
            raise WeightsError(f"{path}: holds values that are not finite; take an earlier checkpoint")
    return model.eval(), info
