"""One process or many: the few things a training loop asks of torch.distributed. Started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number among those of the run; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join() -> torch.device:
    """Join torchrun's process group where there is one; returns this process's device."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    """Leave the process group: its threads must end before the interpreter does, or they abort it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def mine(rows: Tensor) -> Tensor:
    """This process's share of a batch's rows: every world_size-th, from its own rank on."""
    return rows[rank() :: world_size()]


def sum_over_processes(tensors: Iterable[Tensor]) -> None:
    """Add up each tensor over all processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
