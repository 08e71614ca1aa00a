"""What caches hold after an hour is what they held after half of it: under a manual clock."""

from collections.abc import Mapping

import numpy as np
from fakes import START, FakeEngine, frame_at, state_at, tiny_spec

from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.ports import Stage, Staged
from diffusion_policy_rt.runtime.receptive import ReceptiveField
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule

SIZE, SECOND = (24, 32), 1_000_000_000


class StagedFake(FakeEngine):
    """A FakeEngine that can be run by layers: every second pixel, and its mean."""

    def staged(self, camera):
        return Staged((Stage((ReceptiveField(1, 2, 0),), lambda x: x[:, ::2, ::2]),),
                      lambda x: np.full(8, x.mean(), np.float32))


def bytes_of(held, seen=None):
    """Return the size of all arrays, and the number of all else, that can be reached [bytes]."""
    seen = {} if seen is None else seen
    if id(held) in seen:
        return 0
    seen[id(held)] = held  # kept, or its id could come again
    if isinstance(held, np.ndarray):
        return held.nbytes
    if isinstance(held, Mapping):
        parts = [*held.keys(), *held.values()]
    elif isinstance(held, (str, bytes)) or not hasattr(held, '__iter__'):
        parts = [getattr(held, '__dict__', None), *(
            getattr(held, name) for name in getattr(held, '__slots__', ()))]
    else:
        parts = list(held) if hasattr(held, '__len__') else []
    return 8 + sum(bytes_of(part, seen) for part in parts if part is not None)


def frame_of(stamp):
    """Return a still image with a moving square; a quite different one now and then."""
    if stamp // SECOND % 37 == 0:
        return frame_at(stamp, shape=SIZE)
    image = np.full((*SIZE, 3), 90, np.uint8)
    column = stamp // SECOND % 24
    image[8:12, column:column + 4] = 200
    return Frame.of('front', stamp, image)


def test_nothing_grows_in_an_hour():
    spec, clock = tiny_spec(size=SIZE, rate=1.0), ManualClock()
    settings = LoopSettings(control_rate=1.0, deadline=0.5, observation_timeout=1.5,
                            action_timeout=5.0, min_steps=1, max_steps=1)
    loop = PolicyLoop(spec, StagedFake(spec, clock), settings, clock)
    loop.tiling.least = 0
    loop.tiling.prove()
    loop.keep(type(loop.rules)(capacity=16, warm_start=2.0, tiles={
        'front': TileRule(True, threshold=1.0, max_age=30.0)}))
    sizes = []
    for second in range(3600):
        now = START + second * SECOND
        loop.observe_frame(frame_of(now))
        loop.observe_state(now, now, state_at(now))
        loop.plan(now)
        loop.engine.encoded.clear()  # the fake's own diary
        loop.engine.denoised.clear()
        if second % 60 == 59:
            sizes.append(bytes_of(loop))
    told = loop.tiling.figures()
    assert len(loop.cache) == 16
    assert min(told[f'tiles.front.{kind}'] for kind in ('patched', 'whole', 'refreshed')) > 50
    assert loop.warm.plans > 3000
    assert max(sizes[30:]) <= 1.01 * max(sizes[:30])
