"""Training in several processes: each takes its share of a batch, and if asked of the weights."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.train.sharding import average, building, recompute, shard, synchronise

PRECISIONS = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


@dataclass(frozen=True)
class Strategy:
    """What a run spends memory and disk on. All but `precision` leave the curve as it is."""

    shard: bool = False
    """Each process keeps its share of weights, gradients and optimiser (FSDP2); else all."""
    precision: str = 'float32'
    """What layers compute in, one of PRECISIONS; weights and their updates stay float32."""
    accumulate: int = 1
    """Parts, one after the other, of each process's share of a batch."""
    recompute: bool = False
    """Compute activations of each block again in the backward pass instead of keeping them."""
    save_every: int = 0
    """Steps from one checkpoint to the next within an epoch; 0: at the end of each only."""


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device
    strategy: Strategy = field(default_factory=Strategy)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def parts(self) -> int:
        """How many parts a batch is taken in, over all processes."""
        return self.size * self.strategy.accumulate

    def place(self, module: nn.Module, trained: bool = True) -> nn.Module:
        """Bring the module to the device, sharded where the strategy says so; in place."""
        if self.strategy.recompute and trained:
            recompute(module)
        if self.strategy.shard:  # which brings it there block by block
            shard(module, self.device, self.size, PRECISIONS[self.strategy.precision])
        else:
            module.to(self.device)
        return module

    def building(self) -> AbstractContextManager[None]:
        """Return the context in which a network is built: its blocks sharded as they come."""
        if not self.strategy.shard:
            return nullcontext()
        return building(self.device, self.size, PRECISIONS[self.strategy.precision])

    def replicated(self) -> World:
        """Return this world with all of the weights in each process."""
        return replace(self, strategy=replace(self.strategy, shard=False))

    def compute(self) -> torch.autocast:
        """Return the context in which networks are run, of the strategy's precision."""
        kind = PRECISIONS[self.strategy.precision]
        return torch.autocast(self.device.type, kind, enabled=kind != torch.float32)

    def hold_gradients(self, module: nn.Module, held: bool) -> None:
        """Keep the next backward pass's gradients here, or exchange those of all so far."""
        if self.strategy.shard:
            synchronise(module, not held)

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over all processes; sharding has done it."""
        if self.size > 1 and not self.strategy.shard:
            average(module, self.size)

    def mean(self, value: float) -> float:
        """Return the mean of a value over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, device=self.device, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.size

    def told(self, values: dict[str, float]) -> dict[str, float]:
        """Return the values that the leading process has, in every process."""
        held = [values]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def joined(self, part: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """Return the parts [n, D] of all processes, one after the other; n is told by `counts`."""
        if self.size == 1:
            return part
        held = [torch.zeros(max(counts), *part.shape[1:]) for _ in counts]
        own = torch.zeros_like(held[0])
        own[:len(part)] = torch.from_numpy(part)
        dist.all_gather(held, own)
        return torch.cat([each[:n] for each, n in zip(held, counts)]).numpy()

    def leave(self) -> None:
        """Leave the process group, all at the same point: one that just exits may abort others."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Turn the loss of another process into one line that ends with `what` to do."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or 'gloo' in str(error).lower()
            if self.size == 1 or not lost:
                raise
            atexit.register(os._exit, 1)  # taking such a group down aborts, or waits for ever
            raise DprtError(f'process {self.rank} of {self.size} lost another one; its own '
                            f'message tells why; {what}') from error


def join(strategy: Strategy | None = None) -> World:
    """Join torchrun's process group if there is one; use the GPU if there is one."""
    rank, size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    device, strategy = torch.device('cpu'), strategy or Strategy()
    if torch.cuda.is_available():
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
        torch.cuda.set_device(device)
    if (size > 1 or strategy.shard) and not dist.is_initialized():
        backend = 'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo'
        if size > 1:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return World(rank, size, device, strategy)
