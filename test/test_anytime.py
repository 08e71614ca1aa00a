"""The deadline chooses the steps; what there is of a plan is used when a step takes too long."""

import threading

from fakes import MS, START, feed, make_loop, planned, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.driver import Driver
from diffusion_policy_rt.runtime.timeline import SteadyTimeline
from diffusion_policy_rt.runtime.trace import Rung

COUNTS = (1, 2, 4, 8)
served = st.sets(st.sampled_from(COUNTS), min_size=1).map(lambda s: tuple(sorted(s)))


@given(served, st.integers(0, 40), st.integers(1, 40), st.integers(1, 200))
def test_the_chosen_plan_meets_the_deadline_whenever_any_plan_can(steps, encode, call, budget):
    loop = make_loop(tiny_spec(n_obs=1, steps=steps))
    loop.engine.encode_ns, loop.engine.denoise_ns = encode * MS, call * MS
    loop.engine.clock = loop._clock
    loop.latencies.record('encode', encode * MS)
    for n in steps:
        loop.latencies.record(n, n * call * MS)
    feed(loop, START)
    plan = loop.plan(START, budget * MS)
    fitting = [n for n in steps if encode + n * call <= budget]
    assert plan.chunk.steps == max(fitting, default=min(steps))
    assert not fitting or plan.plan_ns <= budget * MS


def test_each_network_call_but_the_last_offers_the_chunk_that_there_is():
    loop, offered = make_loop(), []
    feed(loop, START)
    plan = loop.plan(START, offer=offered.append)
    assert [p.chunk.steps for p in offered] == [1, 2, 3] and plan.chunk.steps == 4
    assert {p.rung for p in offered} == {Rung.FEWER} and plan.rung == Rung.FRESH
    assert all((p.chunk.actions != plan.chunk.actions).any() for p in offered)
    assert loop.current is plan.chunk


def test_an_adopted_estimate_is_followed_until_the_whole_plan_is_there():
    loop, old = planned()
    offered = []

    def look(plan):
        offered.append(plan)
        loop.adopt(plan)
        assert loop.current is plan.chunk
        assert loop.act(START + 100 * MS, plan).rung == Rung.FEWER

    feed(loop, START + 100 * MS)
    plan = loop.plan(START + 100 * MS, offer=look)
    assert loop.current is plan.chunk and loop.counts['cut_short'] == len(offered) == 3


def test_a_plan_that_a_reset_overtakes_leaves_nothing_behind():
    loop = make_loop()
    feed(loop, START)
    loop.engine.meanwhile = loop.reset
    assert 'overtaken' in loop.plan(START).reason
    assert loop.current is None and loop.wants_plan(START)


def test_a_step_that_hangs_costs_steps_and_the_next_tick_has_the_whole_plan():
    spec = tiny_spec(n_obs=1, steps=(2,))
    loop = make_loop(spec, n_action_steps=8, control_rate=5.0, deadline=0.05)
    timeline, go_on, ticks, ticked = SteadyTimeline(START), threading.Event(), [], \
        threading.Semaphore(0)
    loop.engine.clock = None
    loop.engine.meanwhile = lambda: len(loop.engine.denoised) == 1 and go_on.wait(20)
    driver = Driver(loop, timeline, lambda action: None,
                    lambda tick: (ticks.append(tick), ticked.release()), lambda reason: None)
    feed(loop, timeline.now_ns())
    driver.start()
    for _ in range(3):
        assert ticked.acquire(timeout=20)
    assert (ticks[0].rung, ticks[0].steps) == (Rung.FEWER, 1)
    rungs = {tick.rung for tick in ticks[1:] if not tick.missed}  # a busy machine skips some
    assert rungs <= {Rung.CHUNK} and loop.current.steps == 1
    go_on.set()
    assert driver._planner.done.wait(20)
    assert loop.current.steps == 2 and loop.counts['cut_short'] == 1
    driver.stop()
