"""A run's checkpoint: one file of the leading process, or a folder of every process's share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.train import shards
from diffusion_policy_rt.train.distributed import World

Networks = Mapping[str, shards.Network]


class Checkpoint:
    """Where a run goes on: written whole or not at all, read by any number of processes."""

    def __init__(self, path: Path, fingerprint: str, world: World) -> None:
        """`path` is the file; shares are written beside it. `fingerprint` tells the run."""
        self.path, self._fingerprint, self._world = path, fingerprint, world
        self._shards = path.with_suffix('.shards')

    def write(self, facts: Mapping[str, Any], best: Mapping[str, Any], networks: Networks) -> None:
        """Replace what stands there; `facts` hold the step."""
        told = {**facts, 'fingerprint': self._fingerprint}
        if self._world.strategy.shard:
            told['best'] = {**best, 'weights': bool(best['weights'])}
            shards.save(self._shards, facts['step'], networks, best['weights'], told,
                        self._world.leads)
        elif self._world.leads:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as partial:
                torch.save({**told, 'best': dict(best), **_states(networks)}, partial)

    def read(self, networks: Networks) -> dict[str, Any] | None:
        """Fill networks and optimisers; return the facts with `best`. None if nothing is there.

        DprtError where it belongs to another run.
        """
        return self._read_shards(networks) if self._world.strategy.shard else self._read(networks)

    def _read(self, networks: Networks) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(
            self.path, map_location=self._world.device, weights_only=True)
        self._check(state, self.path)
        for name, (network, optimiser) in networks.items():
            network.load_state_dict(state[name])
            if optimiser is not None:
                optimiser.load_state_dict(state[_optimiser_key(name)])
        return state

    def _read_shards(self, networks: Networks) -> dict[str, Any] | None:
        folder = shards.newest(self._shards)
        if folder is None:
            return None
        facts = shards.read_facts(folder)
        self._check(facts, folder)
        kept = shards.load(folder, networks, facts['best']['weights'])
        return {**facts, 'best': {**facts['best'], 'weights': kept}}

    def _check(self, state: Mapping[str, Any], path: Path) -> None:
        if state['fingerprint'] != self._fingerprint:
            raise DprtError(f'{path} belongs to another recipe, seed or data set, to another '
                            '--eval-every or --stream; choose another --out or remove it')


def _states(networks: Networks) -> dict[str, Any]:
    states: dict[str, Any] = {}
    for name, (network, optimiser) in networks.items():
        states[name] = network.state_dict()
        if optimiser is not None:
            states[_optimiser_key(name)] = optimiser.state_dict()
    return states


def _optimiser_key(name: str) -> str:
    return 'optimiser' if name == 'module' else f'{name}_optimiser'
