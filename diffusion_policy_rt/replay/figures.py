"""The figures of a table's measured rows: scores, differences, modes, times, training hours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import WEIGHTS
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.replay.bench import planner
from diffusion_policy_rt.replay.compare import paired_difference
from diffusion_policy_rt.replay.evaluate import summarise
from diffusion_policy_rt.replay.tabulate import Subject

MODES_KEYS = ('mode_coverage', 'modes_kept', 'modes', 'minority_share')


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A row with its outcomes, and what it keeps of the reference's modes."""

    subject: Subject
    outcomes: Sequence[Mapping[str, Any]]
    modes: Mapping[str, Any] | None


def times(subjects: Sequence[Subject], repeats: int) -> list[dict[str, float] | None]:
    """Return p50 and p99 [s] of a plan of each row, from one new frame per camera to its chunk.

    The rows take turns in this process; engines run one thread. None for a floor.
    """
    calls = {i: planner(s.loop.spec, s.loop.engine, s.steps, np.random.default_rng(0))
             for i, s in enumerate(subjects) if s.loop is not None}
    taken = dict(zip(calls, take_turns(list(calls.values()), repeats)))
    return [{'p50': float(np.percentile(taken[i], 50)), 'p99': float(np.percentile(taken[i], 99))}
            if i in taken else None for i in range(len(subjects))]


def own_hours(training: Mapping[str, Any]) -> float | None:
    """Return the hours that a bundle's own training took; None where it does not tell."""
    if 'hours' in training:
        return float(training['hours'])
    stages = training.get('stages')
    return sum(float(s['hours']) for s in stages.values()) if stages else None


def hours(subjects: Sequence[Subject]) -> list[tuple[float | None, float | None]]:
    """Return the training hours of each row and of its teacher, which must be a row as well."""
    known = {s.bundle.files[WEIGHTS]['sha256']: own_hours(s.bundle.training)
             for s in subjects if s.bundle is not None}
    return [(None, None) if s.bundle is None else
            (own_hours(s.bundle.training), known.get(s.bundle.training.get('teacher')))
            for s in subjects]


def figures(measured: Measured, reference: Measured) -> dict[str, Any]:
    """Return the figures of one row that its episodes and modes determine."""
    difference, kept = paired_difference(measured.outcomes, reference.outcomes), measured.modes
    subject, row = measured.subject, dataclasses.asdict(measured.subject.row)
    del row['make']
    return {
        **row, 'steps': subject.steps, 'engine': subject.engine,
        'sha256': subject.bundle.digest if subject.bundle else None,
        **summarise(measured.outcomes),
        'difference': difference['difference'], 'difference_ci95': difference['ci95'],
        **{key: kept[key] if kept else None for key in MODES_KEYS},
        'network_calls': subject.steps or None}


def tabulate(measured: Sequence[Measured], reference: Measured,
             repeats: int) -> list[dict[str, Any]]:
    """Return the rows of `dprt table --json`; None stands for what a row does not have."""
    subjects = [one.subject for one in measured]
    plans, trained = times(subjects, repeats), hours(subjects)
    base = plans[measured.index(reference)]
    assert base is not None, 'the reference is a bundle'
    return [{**figures(one, reference), 'plan_s': plan,
             'speedup': base['p50'] / plan['p50'] if plan else None,
             'hours': own, 'teacher_hours': its}
            for one, plan, (own, its) in zip(measured, plans, trained)]
