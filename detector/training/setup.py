"""What comes before the first epoch: data, model, optimiser, and the folder of the run."""

import dataclasses
import json
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from detector.config import PathsConfig, TrainConfig, TrainLoopConfig
from detector.data.coco import CocoImages
from detector.data.loader import TrainingItem, training_loader
from detector.data.sampler import EpochSampler
from detector.data.splits import split_paths
from detector.errors import ConfigError, DataError, WeightsError
from detector.evaluation.evaluate import Frame, frame_loader
from detector.fileio import remove_unfinished, require_writable, write_json, write_text
from detector.geometry.boxes import Anchors, make_anchors
from detector.geometry.frame_size import FrameSize
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.models.pgi import Guided, guided
from detector.runtimes.device import resolve_device
from detector.runtimes.memory import keep_freed_memory
from detector.structures import Categories
from detector.training.batch_size import batch_that_fits
from detector.training.checkpoint import EpochTally, TrainState, read_checkpoint, restore_checkpoint
from detector.training.distributed import World, was_restarted, with_synchronised_norms
from detector.training.ema import ModelEma
from detector.training.freeze import freeze
from detector.training.logs import drop_lines, drop_metrics_after, environment, launcher
from detector.training.optim import build_optimizer
from detector.training.pictures import training_pictures
from detector.training.resume import inexact, origin_of, require_same
from detector.weights.files import load_weights
from detector.weights.shipped import find_weights
from detector.weights.transfer import transfer


@dataclass
class Run:
    """What stays the same during a run.

    world: the processes that share it; network: the model as training calls it, which has the auxiliary branch beside it
    and exchanges gradients between the processes; origin: what goes into the checkpoint so that nothing else is resumed from it.
    """

    config: TrainConfig
    out: Path
    device: torch.device
    autocast: torch.autocast
    train_images: CocoImages
    val_images: CocoImages
    sampler: EpochSampler
    loader: DataLoader[TrainingItem]
    val_loader: DataLoader[Frame]
    world: World
    network: nn.Module
    origin: dict[str, Any]
    strides: tuple[int, ...]
    _anchors: dict[FrameSize, Anchors] = field(default_factory=dict)

    def anchors(self, size: FrameSize) -> Anchors:
        """Those of a batch of that size, on the run's device; made once for each size."""
        if size not in self._anchors:
            levels = [(size.height // stride, size.width // stride) for stride in self.strides]
            self._anchors[size] = make_anchors(levels, self.strides, like=torch.zeros(1, device=self.device))
        return self._anchors[size]

    @property
    def accumulate(self) -> int:
        """Forward passes an optimiser step."""
        assert self.config.train.batch_size != "auto"
        return max(round(self.config.train.nominal_batch_size / self.config.train.batch_size), 1)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.accumulate)


def set_up(config: TrainConfig, world: World = World()) -> tuple[Run, TrainState]:  # noqa: B008, it is frozen
    """Read the data, build the model, and open or reopen the folder of the run."""
    if was_restarted() and config.resume is None and world.from_main(is_own_run(Path(config.out))):
        config = dataclasses.replace(config, resume=config.out)
    settings, out = config.train, Path(config.resume or config.out)
    device = resolve_device(settings.device)
    if device.type == "cuda" and world.size > 1:
        if world.local_size > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun --nproc_per_node {world.local_size}: there are {torch.cuda.device_count()} CUDA cards; start as many"
                " processes as cards, or train with --train.device cpu"
            )
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    be_deterministic(settings)
    keep_freed_memory()
    require_writable(out)
    if config.resume is None and holds_results(out):
        raise DataError(f"--out: {out} holds a run already; --resume {out} continues it, another folder starts anew")
    train_images = CocoImages.load(split_paths(config.data, config.paths, "train"))
    val_images = CocoImages.load(split_paths(config.data, config.paths, "val"), train_images.categories)
    for line in (*train_images.problems, *val_images.problems):
        print(line)

    torch.manual_seed(settings.seed)
    model = create_model(config.model, len(train_images.categories))
    if config.weights is not None and config.resume is None:
        start_from(config.weights, config.model, train_images.categories, model)
    freeze(model, settings.freeze)
    network = guided(model) if config.loss.auxiliary > 0 else model
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = choose_precision(settings.precision, device)
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    if settings.batch_size == "auto":
        settings = dataclasses.replace(
            settings, batch_size=automatic_batch(network, model.head.strides, settings, autocast, world)
        )
        config = dataclasses.replace(config, train=settings)
    assert settings.batch_size != "auto"
    if settings.batch_size < world.size:
        raise ConfigError(
            f"train.batch_size: {settings.batch_size} pictures can't be shared by {world.size} processes; give at least"
            f" --train.batch_size {world.size}"
        )
    state = TrainState(
        model,
        ModelEma(model, settings),
        build_optimizer(network, settings),
        # the usual 2^16 is far too large for a loss summed over pictures: the first steps would all be left out
        torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=precision == torch.float16),
        tally=EpochTally(losses=torch.zeros(3, device=device)),
        auxiliary=network.auxiliary if isinstance(network, Guided) else nn.Module(),
    )
    pictures, sampler = training_pictures(config, train_images, settings.cache_gb, world)
    if pictures.sources.told:
        print(pictures.sources.told)
    run = Run(
        config=with_absolute_paths(dataclasses.replace(config, resume=None)),
        out=out,
        device=device,
        autocast=autocast,
        train_images=train_images,
        val_images=val_images,
        sampler=sampler,
        loader=training_loader(pictures, sampler, config.loader, pin_memory=device.type == "cuda"),
        val_loader=frame_loader(
            val_images,
            FrameSize.of(settings.image_size),
            config.loader,
            range(world.rank, len(val_images), world.size),
            reuse=True,
        ),
        strides=model.head.strides,
        world=world,
        network=as_network(network, settings, device, world),
        origin=origin_of(config, train_images, val_images, device, world),
    )
    if config.resume is not None:
        reopen(run, state)
    elif world.is_main:
        open_run_folder(run)
    return run, state


def as_network(model: nn.Module, settings: TrainLoopConfig, device: torch.device, world: World) -> nn.Module:
    """The model as training calls it: compiled, and exchanging gradients, if asked to. The model's tensors keep their names."""
    if settings.compile:
        require_compiler(settings)
    if settings.sync_batch_norm and world.size > 1:
        with_synchronised_norms(model, device)
    if settings.compile:
        model.compile(dynamic=False)
    if world.size == 1:
        return model
    cards = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer torch calls broadcast_buffers by another name
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=cards, broadcast_buffers=False, gradient_as_bucket_view=True)


def require_compiler(settings: TrainLoopConfig) -> None:
    """Raise ConfigError where the network can't be compiled."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile: there is no C++ compiler ({compiler}); install one or leave train.compile out"
        )
    if settings.multi_scale > 0:
        raise ConfigError(
            "train.compile: each size of train.multi_scale would be compiled anew; use only one of the two"
        )


def be_deterministic(settings: TrainLoopConfig) -> None:
    """Have torch refuse what may differ from run to run, if asked to; else let cuDNN look for its fastest algorithms."""
    torch.use_deterministic_algorithms(settings.deterministic)
    torch.backends.cudnn.benchmark = not settings.deterministic
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts


def automatic_batch(
    network: nn.Module, strides: Sequence[int], settings: TrainLoopConfig, autocast: torch.autocast, world: World
) -> int:
    """The batch that fits on the card, measured, times the number of processes; at most the pictures of a step."""
    if next(network.parameters()).device.type != "cuda":
        raise ConfigError("train.batch_size: auto measures a CUDA card's memory; on a CPU give a number, such as 16")
    fits = batch_that_fits(network, strides, settings, autocast)
    if fits == 0:
        raise ConfigError(
            f"train.batch_size: not even one picture of {settings.image_size} px fits; lower --train.image_size"
        )
    size: int = min(world.from_main(fits) * world.size, settings.nominal_batch_size)
    print(f"train.batch_size auto: {size}")
    return size


def reopen(run: Run, state: TrainState) -> None:
    """Bring `state` to where the run was. Raises ConfigError or DataError if the settings or the data are not the same."""
    path = run.out / "last.pt"
    content = read_checkpoint(path, run.device)
    require_same(content["origin"], run.origin, run.out)
    restore_checkpoint(path, content, state)
    if run.world.is_main:
        if difference := inexact(content["origin"], run.origin):
            print(difference)
        remove_unfinished(run.out)
        drop_metrics_after(run.out, state.epoch)
        drop_lines(run.out / "skipped_steps.jsonl", lambda entry: entry["step"] > state.step)


def is_own_run(out: Path) -> bool:
    """Whether the run in `out` was begun by the torchrun that has now started this process again."""
    path = out / "environment.json"
    return path.exists() and bool(json.loads(path.read_bytes())["launcher"] == launcher())


def holds_results(out: Path) -> bool:
    """Whether a run has finished an epoch there, or saved a step of its first; one that failed earlier is in nobody's way."""
    if any((out / name).exists() for name in ("best.safetensors", "last.safetensors", "metrics.jsonl")):
        return True
    try:
        return bool(read_checkpoint(out / "last.pt", torch.device("cpu")).get("step"))
    except WeightsError:  # none, or not a checkpoint
        return False


def open_run_folder(run: Run) -> None:
    """Write down what the run is made of."""
    remove_unfinished(run.out)
    (run.out / "skipped_steps.jsonl").unlink(missing_ok=True)  # of a run that failed before its first epoch's end
    text = yaml.safe_dump(dataclasses.asdict(run.config), sort_keys=False, allow_unicode=True)
    write_text(run.out / "config.yaml", text)
    write_json(run.out / "environment.json", environment(run.device))


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same files and folders, so that a run can be resumed from any folder, even if its first weights are gone."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    paths = PathsConfig(**{name: absolute(path) for name, path in dataclasses.asdict(config.paths).items()})
    weights = config.weights
    if weights is not None and not Path(weights).is_absolute():
        weights = str(find_weights(weights).absolute())
    return dataclasses.replace(config, data=absolute(config.data), weights=weights, paths=paths)


def start_from(weights: str, model_name: str, categories: Categories, model: DetectionModel) -> None:
    """Take what a weights file of the same model holds into `model`; says which classes it keeps."""
    source, info = load_weights(weights)
    if info.model != model_name:
        raise ConfigError(f"--weights: {weights} is for {info.model}, not {model_name}; add --model {info.model}")
    print(f"start from {weights}: {transfer(model, categories, source, info.categories)}")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass; a CPU has fp32 only."""
    if device.type != "cuda":
        if name in ("bf16", "fp16"):
            raise ConfigError(f"train.precision: {name} needs a CUDA card; use auto or fp32 on {device}")
        return torch.float32
    if name == "auto":
        with torch.cuda.device(device):
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
