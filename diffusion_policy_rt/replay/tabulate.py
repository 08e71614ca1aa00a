"""Measuring the rows of a table: episodes and modes, taking up what is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.replay import modes
from diffusion_policy_rt.replay.episode import Controller, PolicyController
from diffusion_policy_rt.replay.evaluate import (
    Evaluation, evaluate, make_controller, outcome)
from diffusion_policy_rt.replay.kept import Kept, identity
from diffusion_policy_rt.replay.nearest import Demonstrations
from diffusion_policy_rt.replay.rows import Row
from diffusion_policy_rt.runtime.loop import PolicyLoop

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Passes items on while it shows their progress: (items, title, how many)."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A row that was found sound: its bundle can be read and loaded."""

    row: Row
    what: Evaluation
    controller: Controller
    steps: int
    engine: str
    bundle: Bundle | None
    """None for a floor."""

    @property
    def loop(self) -> PolicyLoop | None:
        """What plans; None for a floor."""
        return self.controller.loop if isinstance(self.controller, PolicyController) else None

    @property
    def key(self) -> dict[str, Any]:
        """What its episodes depend on."""
        return identity(self.what, self.engine)


def prepare(row: Row, engine: str, demonstrations: Demonstrations | None) -> Subject:
    """Load a row's policy; a BundleError names the command that makes what is missing."""
    what = row.evaluation(engine, demonstrations)
    try:
        bundle = None if row.floor else read_bundle(row.policy)
    except BundleError as error:
        cure = f'; make it by: {row.make}' if row.make else ''
        raise BundleError(f'{error}{cure}') from error
    controller, steps, name = make_controller(what)
    return Subject(row, what, controller, steps, name, bundle)


class Tabulation:
    """Measures rows, taking up what an earlier run has kept in `folder`."""

    def __init__(self, folder: Path, workers: int, watch: Watch) -> None:
        self._kept, self._workers, self._watch = Kept(folder), workers, watch

    def episodes(self, subject: Subject, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Return the outcomes of the seeds; each is kept when it ends, and never run twice."""
        key = subject.key
        done = {one['seed']: one for one in self._kept.read('episodes', key) or ()}
        missing = [seed for seed in seeds if seed not in done]
        made = evaluate(subject.what, missing, self._workers) if missing else ()
        for episode in self._watch(made, subject.row.name, len(missing)):
            done[episode.seed] = outcome(episode)
            self._kept.write('episodes', key, list(done.values()))
        return [done[seed] for seed in seeds]

    def crossroads(self, teacher: Subject, seeds: Sequence[int]) -> list[modes.Crossroads]:
        """Return the states of the seeds as the teacher splits in them; searched once."""
        what = dataclasses.replace(teacher.what, noise_seed=teacher.what.noise_seed + 1,
                                   execute=0, delay=0)
        key = identity(what, teacher.engine)
        done = {one['seed']: one for one in self._kept.read('crossroads', key) or ()}
        missing = [seed for seed in seeds if seed not in done]
        made: Iterator[modes.Crossroads] = modes.search(
            what, missing, min(self._workers, len(missing)))
        for state in self._watch(made, f'modes of {teacher.row.name}', len(missing)):
            done[state.seed] = dataclasses.asdict(state)
            self._kept.write('crossroads', key, list(done.values()))
        return [modes.Crossroads(**{**done[seed], 'teacher': tuple(done[seed]['teacher'])})
                for seed in seeds]

    def modes(self, subject: Subject, states: Sequence[modes.Crossroads]) -> dict[str, Any] | None:
        """Return `modes.kept_modes` of a row.

        None for a floor, which draws no chunks, and for a warm start, which has no last chunk at a
        crossroads.
        """
        if subject.loop is None or subject.loop.spec.schedule(subject.steps).warm_sigmas:
            return None
        what = dataclasses.replace(subject.what, execute=0, delay=0)
        key = {'student': identity(what, subject.engine),
               'states': [dataclasses.asdict(state) for state in states]}
        found = self._kept.read('modes', key)
        if found is None:
            found = modes.compare(what, states, self._workers)
            self._kept.write('modes', key, found)
        return found
