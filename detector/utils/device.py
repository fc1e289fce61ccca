"""The device by the name that users give it."""

import torch

from detector.errors import ConfigError


def resolve_device(name: str | torch.device) -> torch.device:
    """The device by name; auto is CUDA where there is a GPU. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name} is not there, {torch.cuda.device_count()} CUDA GPUs are; use auto or cpu")
    return device
