"""The schedule of blocks that saves most while plans stay smooth, by playing candidates.

The branch that drifts most carries the noisy chunk at the level of its call; where it stands for
a call, noise of a level that is gone stays in the chunk, and that is jerk, which BAC's cosine does
not see. So in candidates it is computed in every call from one on, and the others as BAC has it:

    call      0      1      2      3      4      5
    fresh    111    000    011    100    100    111         the first branch from call 3 on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.fidelity import compare_chunks
from diffusion_policy_rt.runtime.blocks import BlockSchedule
from diffusion_policy_rt.train.blocks import Rehearsal, drift, find
from diffusion_policy_rt.train.quantize.gate import LIMITS


def smooth(rehearsal: Rehearsal, sigmas: tuple[float, ...], jerk: float,
           bar: Callable[[list[BlockSchedule]], Iterable[BlockSchedule]] = tqdm) -> BlockSchedule:
    """Return the schedule of most saving whose plans' jerk is at most `jerk` times that of all.

    Its chunks differ no more than the gate of `dprt quantize` allows. DataError where none is so.
    """
    spec, all_made = rehearsal.spec, rehearsal.play(rehearsal.all_computed)
    whole = spec.action.denormalise(all_made[0])
    for candidate in bar(candidates(all_made[1], sigmas)):
        chunks = spec.action.denormalise(rehearsal.play(candidate.fresh)[0])
        found = compare_chunks(spec, chunks, whole)
        if found['jerk_ratio'] <= jerk and found['chunk_rmse'] <= LIMITS['chunk_rmse']:
            return candidate
    raise DataError(f'no schedule that saves anything keeps the jerk below {jerk:g} times that '
                    'without; allow more, or give a --budget')


def candidates(given: Sequence[np.ndarray], sigmas: tuple[float, ...]) -> list[BlockSchedule]:
    """Return schedules that save something, those that save most first.

    `given` is what each branch gave, [N, K, D], in plans that computed all.
    """
    calls, drifting = len(sigmas), int(np.argmax(list(map(drift, given))))
    found = [find(given, sigmas, budget, 1) for budget in range(1, calls)]
    made = {from_call(one, drifting, first) for one in found for first in range(1, calls + 1)}
    return sorted((one for one in made if one.saving > 1),
                  key=lambda one: (-one.saving, one.fresh))


def from_call(schedule: BlockSchedule, branch: int, first: int) -> BlockSchedule:
    """Return the schedule with a branch computed in every call from `first` on."""
    return BlockSchedule(schedule.sigmas, tuple(
        fresh[:branch] + '1' + fresh[branch + 1:] if call >= first else fresh
        for call, fresh in enumerate(schedule.fresh)))
