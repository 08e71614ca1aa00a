"""A collection on disk: one file per episode, so that a killed run goes on; then the data set.

    DIR/collection.json        what is collected, and how
    DIR/episodes/SEED.npz
    DIR/demonstrations.npz     the successes, as `dprt train` reads them
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.train.expert.collect import (
    Collecting, Shown, collect, write_dataset)


class Store:
    """The folder of one collection."""

    def __init__(self, folder: Path, what: Collecting) -> None:
        """Open or begin; DataError where another collection stands in the folder."""
        self.folder, self.what, self.about = folder, what, what.about()
        manifest = folder / 'collection.json'
        (folder / 'episodes').mkdir(parents=True, exist_ok=True)
        if not manifest.is_file():
            with whole_file(manifest) as partial:
                partial.write_text(json.dumps(self.about, indent=1) + '\n')
        if json.loads(manifest.read_text()) != self.about:
            raise DataError(f'{folder} holds another collection; choose another --out or remove '
                            'it')

    def path(self, seed: int) -> Path:
        """Return the file of an episode."""
        return self.folder / 'episodes' / f'{seed}.npz'

    def collect(self, seeds: range, workers: int) -> Iterator[int]:
        """Run the episodes that are not there yet; yield each seed once it is."""
        missing = [seed for seed in seeds if not self.path(seed).is_file()]
        yield from (seed for seed in seeds if seed not in missing)
        for made in collect(self.what, missing, min(workers, max(1, len(missing)))):
            with whole_file(self.path(made.seed)) as partial, partial.open('wb') as file:
                np.savez_compressed(file, **dataclasses.asdict(cast(Any, made)))
            yield made.seed

    def write(self, seeds: range) -> dict[str, Any]:
        """Write the data set of the successes; DataError where there is none."""
        made = [self._read(seed) for seed in seeds]
        kept = [d for d in made if d.success]
        if not kept:
            raise DataError(f'none of {len(made)} episodes succeeded; give a better --policy or '
                            'more --episodes')
        path = self.folder / 'demonstrations.npz'
        write_dataset(path, kept)
        return {'file': str(path), 'episodes': len(made), 'kept': len(kept),
                'rows': sum(len(d.streams()['action']) for d in kept), 'collection': self.about}

    def _read(self, seed: int) -> Shown:
        with np.load(self.path(seed)) as file:
            parts = {name: file[name] for name in file.files}
        return self.what.read({name: value if value.ndim else value.item()
                               for name, value in parts.items()})
