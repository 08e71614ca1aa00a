"""Modules whose weights, gradients and optimiser states are spread over processes (FSDP2)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.checkpoint import checkpoint

from diffusion_policy_rt.model.policy import Policy, parts


def roots(module: nn.Module) -> list[nn.Module]:
    """Return what is called as a whole: a policy's networks, which it runs one by one."""
    return list(parts(module).values()) if isinstance(module, Policy) else [module]


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks that follow each other, the entries of module lists, none within one."""
    for child in module.children():
        entries = list(child.children()) if isinstance(child, nn.ModuleList) else []
        for entry in entries:
            if isinstance(entry, nn.ModuleList):
                yield from blocks(nn.Sequential(entry))
            elif any(True for _ in entry.parameters()):
                yield entry
        if not entries:
            yield from blocks(child)


def shard(module: nn.Module, device: torch.device, size: int, compute: torch.dtype,
          inner: bool = True) -> None:
    """Spread the module over `size` processes, in place: if `inner` block by block, then the rest.

    Gathered weights are of type `compute`, gradients are summed in float32.
    """
    options: dict[str, Any] = {
        'mesh': init_device_mesh(device.type, (size,)),
        # after an evaluation no backward pass would free what was gathered
        'reshard_after_forward': True,
        # autocast casts what a layer takes; levels must stay as exact as they are
        'mp_policy': MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32,
                                          cast_forward_inputs=False)}
    for root in roots(module):
        for each in (*(blocks(root) if inner else ()), root):
            if not isinstance(each, FSDPModule):  # one that was built so is spread already
                fully_shard(each, **options)


@contextmanager
def building(device: torch.device, size: int, compute: torch.dtype) -> Iterator[None]:
    """Spread each block as soon as it is built and put into a module list.

    So no process ever holds more of a network than one block and its own share. Blocks draw their
    first weights themselves, so these are those of a network that was built whole.
    """
    def spread(parent: nn.Module, _: str, child: nn.Module | None) -> None:
        if (isinstance(parent, nn.ModuleList) and child is not None
                and not isinstance(child, (nn.ModuleList, FSDPModule))
                and any(True for _ in child.parameters())):
            shard(child, device, size, compute, inner=False)

    hook = register_module_module_registration_hook(spread)
    try:
        yield
    finally:
        hook.remove()


def is_spread(module: nn.Module) -> bool:
    """Tell whether parts of a module are spread over processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def put(target: Tensor, value: Tensor) -> None:
    """Copy a value into a tensor, of which this process may keep its share; called by all."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements,
                                  src_data_rank=None).to_local()
        target = target.to_local()
    target.copy_(value)


def start_as(module: nn.Module, other: nn.Module) -> None:
    """Give a module the values that another one has by the same names; called by all.

    RuntimeError where the other has a tensor that the module lacks, or one of another shape.
    """
    own = module.state_dict()
    for name, value in other.state_dict().items():
        if name not in own or own[name].shape != value.shape:
            raise RuntimeError(f'{name} of shape {list(value.shape)} has no place')
        put(own[name], value)


def twin(module: nn.Module, bare: nn.Module) -> nn.Module:
    """Return `bare`, a module of the same kind on no device, with the module's values and shards.

    Both are sharded alike.
    """
    device = next(module.parameters()).device
    bare.to_empty(device=device)
    with torch.no_grad():
        for empty, value in zip(bare.parameters(), module.parameters()):
            empty.to_local().copy_(value.to_local())  # type: ignore[attr-defined]
    lend_buffers(bare, module)
    return bare


def lend_buffers(bare: nn.Module, module: nn.Module) -> nn.Module:
    """Give `bare` copies of the module's buffers; return it."""
    for name, buffer in module.named_buffers():
        owner, _, own = name.rpartition('.')
        setattr(bare.get_submodule(owner), own, buffer.clone())
    return bare


def synchronise(module: nn.Module, now: bool) -> None:
    """Choose whether the next backward pass exchanges gradients."""
    for root in roots(module):
        if isinstance(root, FSDPModule):
            root.set_requires_gradient_sync(now)


def recompute(module: nn.Module) -> None:
    """Let each block keep its inputs only, and compute the rest again in the backward pass."""
    for root in roots(module):
        for block in blocks(root):
            block.forward = functools.partial(  # type: ignore[method-assign]
                checkpoint, block.forward, use_reentrant=False)


def average(module: nn.Module, size: int) -> None:
    """Replace every gradient by its mean over `size` processes."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def outline(module: nn.Module) -> nn.Module:
    """Return a copy that has the buffers, but parameters without storage."""
    empty: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device='meta'), p.requires_grad)
        for p in module.parameters()}
    return copy.deepcopy(module, empty)


def whole(module: nn.Module, outlined: nn.Module, leads: bool) -> nn.Module:
    """Gather a sharded module on the CPU of the process that leads; called by all.

    The others get `outlined`.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered = get_model_state_dict(module, options=options)
    if leads:
        outlined = copy.deepcopy(outlined)
        outlined.load_state_dict(gathered, assign=True)
        outlined.cpu()
    return outlined.eval().requires_grad_(False)
