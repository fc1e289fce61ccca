"""Checkpoints of whole module objects, made with a package that is gone when they are read."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

PACKAGE = "someyolo"


@contextmanager
def foreign_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """Module classes of a package that exists only inside: DetectionModel, Block, Segment."""
    package = ModuleType(PACKAGE)
    tasks = ModuleType(f"{PACKAGE}.tasks")
    classes = {}
    for name in ("DetectionModel", "Block", "Segment"):
        classes[name] = type(name, (nn.Module,), {"__module__": tasks.__name__})
        setattr(tasks, name, classes[name])
    sys.modules.update({package.__name__: package, tasks.__name__: tasks})
    try:
        yield classes
    finally:
        del sys.modules[package.__name__], sys.modules[tasks.__name__]


def modules_of(state: Mapping[str, Tensor], classes: Mapping[str, type[nn.Module]]) -> nn.Module:
    """A tree of modules whose state_dict is `state`, beside what such trees have, too: shared activations, other buffers."""
    act = nn.SiLU()
    root = classes["DetectionModel"]()
    for name, tensor in state.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.BatchNorm2d(1, eps=1e-3) if part == "bn" else classes["Block"]())
                if part == "conv":
                    module.add_module("act", act)
            module = module._modules[part]
        if tensor.is_floating_point() and not last.startswith("running"):
            setattr(module, last, nn.Parameter(tensor.clone()))
        else:
            module.register_buffer(last, tensor.clone())
    root.register_buffer("passing", torch.ones(2), persistent=False)
    root.register_parameter("absent", None)
    root.stride = torch.tensor([8.0, 16.0, 32.0])
    return root


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    names: object = None,
    averaged: Mapping[str, Tensor] | None = None,
    image_size: object = None,
    half: bool = True,
) -> None:
    """As the published trainings save: modules in half precision, averaged ones under "ema", the arguments beside them."""
    with foreign_classes() as classes:
        parts = {"model": modules_of(state, classes), "ema": averaged and modules_of(averaged, classes)}
        for module in parts.values():
            if module is not None:
                module.half() if half else None
                module.names = names
        arguments = {} if image_size is None else {"train_args": {"imgsz": image_size, "data": Path("a.yaml")}}
        torch.save({"epoch": -1, **parts, **arguments, "license": "CC0"}, path)
