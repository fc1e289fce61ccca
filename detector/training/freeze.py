"""Modules that a run leaves as they are: no gradient, not in the optimizer, running statistics fixed."""

import difflib
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.errors import ConfigError


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze the modules of these names, as in `model.named_modules()`, with all that is in them.

    Goes before `build_optimizer`, which takes what has gradients; `train_mode` keeps their batch norms fixed. Raises ConfigError
    for a name without parameters of the model, or if nothing is left to train.
    """
    modules = {
        name: module for name, module in model.named_modules() if name and any(True for _ in module.parameters())
    }
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3) or [n for n in modules if "." not in n]
            raise ConfigError(f"train.freeze: no module named {name!r}; did you mean one of {', '.join(near)}?")
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("train.freeze: this freezes the whole model; leave some of it to train, such as head")


def train_mode(model: nn.Module) -> None:
    """`model.train()`, but frozen batch norms stay in evaluation mode: they use their running statistics and keep them."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
            module.eval()
