"""Checkpoints that every process writes its share of, read by any number of processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict, get_state_dict, set_model_state_dict, set_state_dict)
from torch.optim import Optimizer

FACTS, COMPLETE = 'run.json', '.metadata'
"""Torch writes COMPLETE last, so a folder that holds it is whole."""
Network = tuple[nn.Module, Optimizer | None]


def newest(root: Path) -> Path | None:
    """Return the newest checkpoint that is whole."""
    return max((path.parent for path in root.glob(f'*/{COMPLETE}')), default=None)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what `save` was given beside tensors."""
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    return facts


def tensors(networks: Mapping[str, Network]) -> dict[str, Any]:
    """Return the states of networks and their optimisers, by name."""
    states: dict[str, Any] = {}
    for name, (module, optimiser) in networks.items():
        if optimiser is None:
            states[name] = {'weights': get_model_state_dict(module)}
        else:
            weights, moments = get_state_dict(module, optimiser)
            states[name] = {'weights': weights, 'moments': moments}
    return states


def save(root: Path, step: int, networks: Mapping[str, Network], best: Mapping[str, Any],
         facts: Mapping[str, Any], leads: bool) -> None:
    """Write the checkpoint of a step, then remove the older ones; called by all processes."""
    folder = root / f'{step:09d}'
    if leads:
        shutil.rmtree(folder, ignore_errors=True)  # one that was cut off
        folder.mkdir(parents=True)
        (folder / FACTS).write_text(json.dumps(dict(facts)) + '\n')
    dist.barrier()
    states = tensors(networks) | ({'best': dict(best)} if best else {})
    dcp.save(states, checkpoint_id=folder)
    dist.barrier()
    if leads:
        for older in root.iterdir():
            if older != folder:
                shutil.rmtree(older)


def load(folder: Path, networks: Mapping[str, Network], best: bool) -> dict[str, Any]:
    """Fill networks and optimisers from a checkpoint; return the kept weights, if any.

    `best` tells whether the checkpoint has such; they are those of the network `ema`.
    """
    states = tensors(networks)
    if best:
        kept = get_model_state_dict(networks['ema'][0])
        states['best'] = {name: cast(Tensor, t).clone() for name, t in kept.items()}
    dcp.load(states, checkpoint_id=folder)
    for name, (module, optimiser) in networks.items():
        if optimiser is None:
            set_model_state_dict(module, states[name]['weights'])
        else:
            set_state_dict(module, optimiser, model_state_dict=states[name]['weights'],
                           optim_state_dict=states[name]['moments'])
    return dict(states.get('best', {}))
