"""What comes before the first epoch: data, model, optimizer, and the folder of the run."""

import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from detector.boxes import Anchors, make_anchors
from detector.config import SCRATCH, PathsConfig, TrainConfig, TrainLoopConfig
from detector.data.coco import CocoDataset
from detector.data.compare import doubts
from detector.data.load import read_split
from detector.data.loader import TrainItem, train_loader
from detector.data.sampler import EpochSampler
from detector.doctor.columns import Columns
from detector.doctor.doctor import advice
from detector.errors import ConfigError, DataError, printable, without_secrets
from detector.evaluation.evaluate import EvalItem, eval_loader
from detector.images.input_size import InputSize
from detector.images.remote import WEB
from detector.models.base import DetectionModel
from detector.models.catalog import create_model
from detector.models.pgi import add_auxiliary
from detector.structures import Categories
from detector.training.batch_size import largest_batch_size
from detector.training.checkpoint import EpochStats, TrainState, restore_checkpoint
from detector.training.dataset import build_train_dataset
from detector.training.distributed import World, convert_sync_batch_norm
from detector.training.ema import ModelEma
from detector.training.freeze import freeze
from detector.training.logs import drop_metrics_after, drop_skipped_after, environment
from detector.training.optim import build_optimizer
from detector.training.reopen import open_or_resume, resumed_content
from detector.training.resume import inexact, require_processes, require_same, run_provenance
from detector.training.run_copy import RunCopy
from detector.training.teacher import Teacher
from detector.utils.device import resolve_device
from detector.utils.fileio import write_json, write_text
from detector.utils.stores import is_remote
from detector.weights.files import WeightsInfo, load_weights
from detector.weights.shipped import base_weights, find_weights
from detector.weights.transfer import transfer
from detector.weights.widen import NARROWER, widen

IMAGE_PATHS = ("train_images", "val_images", "test_images")
"""The fields of `PathsConfig` that may be URLs."""
OTHER_PATHS = ("train_json", "val_json", "test_json", "cache")


@dataclass
class Run:
    """What stays the same during a run.

    world: the processes that share it; network: the model as training calls it, with the auxiliary branch beside it and
    the exchange of gradients between the processes; teacher: the network of `--teacher`; provenance: written into the
    checkpoint, so that only a run of the same settings and data resumes from it; copy: the run behind
    train.checkpoint_url, if any.
    """

    config: TrainConfig
    out: Path
    device: torch.device
    autocast: torch.autocast
    train_dataset: CocoDataset
    val_dataset: CocoDataset
    sampler: EpochSampler
    loader: DataLoader[TrainItem]
    val_loader: DataLoader[EvalItem]
    world: World
    network: nn.Module
    provenance: dict[str, Any]
    strides: tuple[int, ...]
    teacher: Teacher | None
    copy: RunCopy | None = None
    _anchors: dict[InputSize, Anchors] = field(default_factory=dict)

    def anchors(self, size: InputSize) -> Anchors:
        """Anchors of a batch of that size, on the run's device; made once for each size."""
        if size not in self._anchors:
            levels = [(size.height // stride, size.width // stride) for stride in self.strides]
            self._anchors[size] = make_anchors(levels, self.strides, like=torch.zeros(1, device=self.device))
        return self._anchors[size]

    @property
    def accumulate(self) -> int:
        """Forward passes per optimizer step."""
        assert self.config.batch_size != "auto"
        return max(round(self.config.train.nominal_batch_size / self.config.batch_size), 1)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.sampler) / self.accumulate)


Beside = Callable[[DetectionModel], nn.Module]
"""Makes the network that training calls: the model and, as its module `auxiliary`, what is trained beside it and dropped."""


def set_up(
    config: TrainConfig,
    world: World = World(),  # noqa: B008, it is frozen
    beside: Beside | None = None,
) -> tuple[Run, TrainState]:
    """Read the data, build the model, and open or reopen the folder of the run; `beside`: not the model's own branch."""
    copy = None if config.train.checkpoint_url is None else RunCopy(config.train.checkpoint_url)
    config, out = open_or_resume(config, world, copy)
    content = resumed_content(config, world)
    if config.weights is None and config.resume is None:
        config = dataclasses.replace(config, weights=base_weights(config.model) or SCRATCH)
        if world.is_main and config.weights != SCRATCH:
            print(f"--weights: pretrained ones, {config.weights}; --weights {SCRATCH} starts from random ones")
    device = choose_device(config.device, world)
    require_augmentation_on(device, config)
    be_deterministic(config.train)
    train_dataset, val_dataset = load_datasets(config, world)
    class_width = None if content is None else content.get("class_width")
    config = without_secret_urls(config)
    model, network = build_model(config, train_dataset.categories, device, class_width, beside)
    precision = choose_precision(config.train.precision, device)
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    config = with_batch_size(config, network, model.head.strides, autocast, world)
    state = build_state(config, model, network, device, precision)
    loader, sampler, val_loader = build_loaders(config, train_dataset, val_dataset, device, world)
    provenance = run_provenance(config, train_dataset, val_dataset, device, world)
    require_same_everywhere(provenance["data"], world)
    run = Run(
        config=with_absolute_paths(dataclasses.replace(config, resume=None)),
        out=out,
        device=device,
        autocast=autocast,
        train_dataset=train_dataset,
        val_dataset=val_dataset,
        sampler=sampler,
        loader=loader,
        val_loader=val_loader,
        strides=model.head.strides,
        teacher=None if config.teacher is None else Teacher(config.teacher, train_dataset.categories).to(device),
        world=world,
        network=as_called(network, config.train, device, world),
        provenance=provenance,
        copy=copy,
    )
    if content is not None:
        resume_run(run, state, content)
    elif world.is_main:
        open_run_folder(run)
    if copy is not None and world.is_main:  # what can't be written is known before the work
        copy.update(out)
    return run, state


def choose_device(name: str, world: World) -> torch.device:
    """The device of this process: with several on CUDA, the GPU of its local rank."""
    device = resolve_device(name)
    if device.type == "cuda" and world.size > 1:
        if world.local_size > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun --nproc_per_node {world.local_size}: there are {torch.cuda.device_count()} CUDA GPUs; start as"
                " many processes as GPUs, or train with --device cpu"
            )
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    return device


def require_augmentation_on(device: torch.device, config: TrainConfig) -> None:
    """Raise ConfigError if images are to be augmented on a GPU, but training is on another device."""
    if config.augment.device == "cuda" and device.type != "cuda":
        raise ConfigError(
            f"augment.device: cuda augments images on the GPU that trains, but this training is on {device}; give"
            " --augment.device cpu, or a CUDA GPU as --device"
        )


def load_datasets(config: TrainConfig, world: World) -> tuple[CocoDataset, CocoDataset]:
    """The training and the validation split; prints what was noticed in them."""
    train = read_split(config.data, "train", config.paths)
    train_dataset = CocoDataset.from_annotations(*train, polygons=config.augment.needs_outlines)
    val = read_split(config.data, "val", config.paths, train_dataset.categories)
    val_dataset = CocoDataset.from_annotations(*val, train_dataset.categories)
    noticed: list[str] = []
    if world.is_main:
        noticed += doubts(train_dataset, val_dataset)  # it may read every image
        splits = [Columns.of("train", *train), Columns.of("val", *val)]
        noticed.append(advice(splits, InputSize.of(config.image_size), config.data, config.train.tiles))
    for line in filter(None, (*train_dataset.problems, *val_dataset.problems, *noticed)):
        print(printable(line))
    return train_dataset, val_dataset


def require_same_everywhere(fingerprints: dict[str, str], world: World) -> None:
    """Raise DataError, in every process, if one of them sees another dataset: they would wait for each other for ever."""
    everywhere = world.from_main(world.gather(fingerprints))
    for split in fingerprints:
        others = [str(rank) for rank, each in enumerate(everywhere) if each[split] != everywhere[0][split]]
        if others:
            raise DataError(
                f"the {split} split that rank {', '.join(others)} sees is not that of rank 0 (the annotations or the length"
                " of an image differ); give all processes the same files"
            )


def build_model(
    config: TrainConfig,
    categories: Categories,
    device: torch.device,
    class_width: int | None = None,
    beside: Beside | None = None,
) -> tuple[DetectionModel, nn.Module]:
    """The model, and the network that is trained: the same, or with what is trained beside it; both on the device. class_width:
    that of a run that is resumed, None for the usual one."""
    source = None
    if config.resume is None and config.weights != SCRATCH:
        assert config.weights is not None
        source, known = load_start(config.weights, config.model)
        class_width = known.class_width
    torch.manual_seed(config.seed)
    model = create_model(config.model, len(categories), class_width)
    if source is not None:
        kept = transfer(model, categories, source, known.categories)
        print(f"start from {config.weights}: {printable(kept)}")
    freeze(model, config.train.freeze)
    beside = beside or (add_auxiliary if config.loss.auxiliary > 0 else lambda model: model)
    network = beside(model)
    return model, network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_state(
    config: TrainConfig, model: DetectionModel, network: nn.Module, device: torch.device, precision: torch.dtype
) -> TrainState:
    """EMA, optimizer and gradient scaler; after `freeze`, which decides what the optimizer trains."""
    return TrainState(
        model,
        ModelEma(model, config.train),
        build_optimizer(network, config),
        # the usual 2^16 is far too large for a loss summed over images: the first steps would all be skipped
        torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=precision == torch.float16),
        stats=EpochStats(losses=torch.zeros(3, device=device)),
        auxiliary=dict(network.named_children()).get("auxiliary", nn.Module()),
    )


def build_loaders(
    config: TrainConfig, train_dataset: CocoDataset, val_dataset: CocoDataset, device: torch.device, world: World
) -> tuple[DataLoader[TrainItem], EpochSampler, DataLoader[EvalItem]]:
    """The training loader with its sampler, and the loader of this process's part of the validation split."""
    dataset, sampler = build_train_dataset(config, train_dataset, config.train.cache_gb, world)
    if dataset.images.message:
        print(dataset.images.message)
    loader = train_loader(dataset, sampler, config.workers, pin_memory=device.type == "cuda")
    own = range(world.rank, len(val_dataset), world.size)
    return loader, sampler, eval_loader(val_dataset, InputSize.of(config.image_size), config.workers, own, reuse=True)


def as_called(model: nn.Module, settings: TrainLoopConfig, device: torch.device, world: World) -> nn.Module:
    """The model as training calls it: compiled, and exchanging gradients, if asked to. The tensors keep their names."""
    if settings.compile:
        require_compiler(settings)
    if settings.sync_batch_norm and world.size > 1:
        model = convert_sync_batch_norm(model, device)
    if settings.compile:
        model.compile(dynamic=False)
    if world.size == 1:
        return model
    gpus = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer torch calls broadcast_buffers by another name
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=gpus, broadcast_buffers=False, gradient_as_bucket_view=True)


def require_compiler(settings: TrainLoopConfig) -> None:
    """Raise ConfigError where the network can't be compiled."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile: there is no C++ compiler ({compiler}); install one or leave train.compile out"
        )
    if settings.multi_scale > 0:
        raise ConfigError(
            "train.compile: each size of train.multi_scale would be compiled separately; use only one of the two"
        )


def be_deterministic(settings: TrainLoopConfig) -> None:
    """Make torch refuse what may differ from run to run, if asked to; else let cuDNN look for its fastest algorithms."""
    torch.use_deterministic_algorithms(settings.deterministic)
    torch.backends.cudnn.benchmark = not settings.deterministic
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts


def with_batch_size(
    config: TrainConfig, network: nn.Module, strides: Sequence[int], autocast: torch.autocast, world: World
) -> TrainConfig:
    """The configuration with `auto` replaced by what fits on the GPUs. Raises ConfigError for too few images per process."""
    size = config.batch_size
    if size == "auto":
        size = automatic_batch_size(network, strides, config, autocast, world)
    if size < world.size:
        raise ConfigError(
            f"batch_size: {size} images can't be split among {world.size} processes; give at least"
            f" --batch_size {world.size}"
        )
    return dataclasses.replace(config, batch_size=size)


def automatic_batch_size(
    network: nn.Module, strides: Sequence[int], config: TrainConfig, autocast: torch.autocast, world: World
) -> int:
    """The batch size that fits on the GPU, measured, times the number of processes; at most the images of a step."""
    if next(network.parameters()).device.type != "cuda":
        raise ConfigError("batch_size: auto measures the memory of a CUDA GPU; on a CPU give a number, such as 16")
    fits = largest_batch_size(network, strides, config, autocast)
    if fits == 0:
        raise ConfigError(f"batch_size: not even one image of {config.image_size} px fits; lower --image_size")
    size: int = min(world.from_main(fits) * world.size, config.train.nominal_batch_size)
    print(f"batch_size auto: {size}")
    return size


def resume_run(run: Run, state: TrainState, content: dict[str, Any]) -> None:
    """Bring `state` to where the run was. Raises ConfigError or DataError if settings, data or number of processes differ."""
    require_same(content["provenance"], run.provenance, run.out)
    require_processes(content["provenance"], run.provenance, run.out)
    restore_checkpoint(run.out / "last.pt", content, state)
    if run.world.is_main:
        if difference := inexact(content["provenance"], run.provenance):
            print(printable(difference))
        drop_metrics_after(run.out, state.epoch)
        drop_skipped_after(run.out, state.step)


def open_run_folder(run: Run) -> None:
    """Write the configuration and the environment of the run."""
    for name in ("skipped_steps.jsonl", "last.pt"):  # of a run that failed before its first epoch's end
        (run.out / name).unlink(missing_ok=True)
    text = yaml.safe_dump(dataclasses.asdict(run.config), sort_keys=False, allow_unicode=True)
    write_text(run.out / "config.yaml", text)
    write_json(run.out / "environment.json", environment(run.device))


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same files and folders, so that a run can be resumed from any folder, even if its first weights are gone."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    def absolute_images(images: str) -> str:
        return images if WEB.match(images) or is_remote(images) else str(Path(images).absolute())

    paths = changed_paths(config.paths, IMAGE_PATHS, absolute_images)
    paths = changed_paths(paths, OTHER_PATHS, lambda path: str(Path(path).absolute()))

    def found(weights: str | None) -> str | None:
        if weights in (None, SCRATCH) or Path(weights).is_absolute():
            return weights
        return str(find_weights(weights).absolute())

    weights, teacher = found(config.weights), found(config.teacher)
    return dataclasses.replace(config, data=absolute(config.data), weights=weights, teacher=teacher, paths=paths)


def without_secret_urls(config: TrainConfig) -> TrainConfig:
    """The configuration as files may hold it: without the passwords and tokens of URLs."""
    return dataclasses.replace(config, paths=changed_paths(config.paths, IMAGE_PATHS, without_secrets))


def changed_paths(paths: PathsConfig, names: Sequence[str], change: Callable[[str], str]) -> PathsConfig:
    """A copy in which those of the paths that are given have changed."""
    changed: dict[str, Any] = {name: change(path) for name in names if (path := getattr(paths, name)) is not None}
    return dataclasses.replace(paths, **changed)


def load_start(weights: str, model_name: str) -> tuple[DetectionModel, WeightsInfo]:
    """The weights that a training of the model starts from, widened if they are those of the narrower model. Raises ConfigError
    if they are another model's."""
    source, info = load_weights(weights)
    if info.model == NARROWER.get(model_name):
        wide = create_model(model_name, len(info.categories))
        try:
            widen(wide, source)
        except ConfigError as error:
            raise ConfigError(
                f"--weights: {weights}, for {info.model} and {len(info.categories)} classes, can't start {model_name}: {error};"
                f" add --model {info.model}"
            ) from error
        print(f"--weights: {weights}, for {info.model}, made twice as wide for {model_name}")
        return wide, dataclasses.replace(info, model=model_name, class_width=None)
    if info.model != model_name:
        raise ConfigError(f"--weights: {weights} is for {info.model}, not {model_name}; add --model {info.model}")
    return source, info


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass."""
    if device.type != "cuda":
        if name == "fp16":
            raise ConfigError(f"train.precision: fp16 needs a CUDA GPU; use auto, fp32 or bf16 on {device}")
        return torch.bfloat16 if name == "bf16" else torch.float32
    if name == "auto":
        with torch.cuda.device(device):
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
