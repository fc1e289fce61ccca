"""Several processes as one run: torchrun starts them, each takes a part of every batch, all keep the same weights."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from detector.errors import ConfigError, DetectorError

RESTARTED = "TORCHELASTIC_RESTART_COUNT"
"""torchrun's count of how often it has started this run again after a process was lost."""
LOST_CONNECTION = ("gloo", "Connection", "NCCL", "Socket", "TCPStore")
"""Parts of error messages that mean that another process is gone."""


@dataclass(frozen=True)
class World:
    """The processes of a run; with one of them nothing here does anything.

    rank: the number of this process, 0 writes and prints; size: how many there are; local_rank, local_size: the same
    on this machine; store: torch's key-value store that all of them reach.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the processes; no gradient flows through it."""
        if self.size > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Replace each batch norm statistic by its mean over the processes, so that all keep the same model."""
        if self.size > 1:
            buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            mean = self.sum(flat) / self.size
            for buffer, values in zip(buffers, torch.split(mean, [b.numel() for b in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))

    def gather(self, value: Any) -> list[Any]:
        """Each process's value by rank, in the main process; an empty list in the others."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.gather_object(value, gathered if self.is_main else None)
        return gathered if self.is_main else []

    def from_main(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        carrier = [value]
        dist.broadcast_object_list(carrier)
        return carrier[0]

    @contextlib.contextmanager
    def translate_lost_process(self) -> Iterator[None]:
        """What torch raises in the block when another process is gone becomes a LostProcessError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(mark in str(error) for mark in LOST_CONNECTION):
                raise
            raise LostProcessError("another process of this run has ended or can't be reached") from error

    def owns_error_report(self) -> bool:
        """Whether this process is the first that has an error to report; the others keep quiet."""
        if self.store is None:
            return True
        mine = str(self.rank)
        with contextlib.suppress(RuntimeError):  # the store went down with the process that kept it
            return bool(self.store.compare_set("error reported by", "", mine).decode() == mine)
        return self.rank == min(1, self.size - 1)


@contextlib.contextmanager
def init_distributed() -> Iterator[World]:
    """The world that torchrun's environment variables describe, which Ray Train sets, too, connected for the time of the block;
    else just this process.

    Only the main process prints. If one process fails, every process ends and one of them says why: a DetectorError is
    raised there, SystemExit (2) in the others. An error that is a bug keeps its traceback.
    """
    if "RANK" not in os.environ:
        yield World()
        return
    local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if dist.is_initialized():  # by Ray Train
        world = World(dist.get_rank(), dist.get_world_size(), *local)
    else:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, size = next(iter(rendezvous("env://")))
        # torchrun's store outlives a restart, and with it the addresses of the processes that are gone
        store = dist.PrefixStore(f"start {os.environ.get(RESTARTED, 0)}", store)  # type: ignore[attr-defined]
        world = World(rank, size, *local, store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        with (
            world.translate_lost_process(),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(sys.stdout if world.is_main else nowhere),
        ):
            yield world
    except DetectorError:
        if world.owns_error_report():
            raise
        sys.exit(2)
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


class LostProcessError(DetectorError):
    """A run of several processes has lost one."""


def was_restarted() -> bool:
    """Whether torchrun has started this run again after it lost a process."""
    return int(os.environ.get(RESTARTED, "0")) > 0


def convert_sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with batch norm statistics over all processes; same names of tensors. Raises ConfigError on a CPU."""
    if device.type != "cuda":
        raise ConfigError("train.sync_batch_norm: torch has it on CUDA only; leave it out on a CPU")
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
