"""The driver on a timeline that is moved by hand: nothing here sleeps but the last three."""

import heapq
import itertools
import math
import threading
from dataclasses import replace

import pytest
from fakes import MS, START, feed, frame_at, make_loop, tiny_spec

from diffusion_policy_rt.runtime.asking import PUBLISH_MARGIN_NS
from diffusion_policy_rt.runtime.driver import MAX_SKIPPED, Driver
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.runtime.planner import Planner
from diffusion_policy_rt.runtime.timeline import SteadyTimeline
from diffusion_policy_rt.runtime.trace import Rung

PERIOD = 100 * MS
T0 = START


class ScriptedTimeline:
    """Jumps from event to event; a sleeper is woken when an event sets what it waits for."""

    def __init__(self, now=T0):
        self.now, self._events, self._order = now, [], itertools.count()

    def now_ns(self):
        return self.now

    def at(self, instant, event):
        heapq.heappush(self._events, (instant, next(self._order), event))

    def advance(self, ns):
        self.sleep_until(self.now + ns, threading.Event())

    def sleep_until(self, instant, wake):
        while not wake.is_set() and self._events and self._events[0][0] <= instant:
            due, _, event = heapq.heappop(self._events)
            self.now = max(self.now, due)
            event()
        if not wake.is_set():
            self.now = max(self.now, instant)


class ScriptedPlanner:
    """Takes `cost` on the timeline for each plan."""

    def __init__(self, loop, timeline, cost=0):
        self.loop, self.timeline, self.cost = loop, timeline, cost
        self.done, self.asked, self.result, self.offered = threading.Event(), [], None, None
        self.done.set()

    @property
    def busy(self):
        return not self.done.is_set()

    def ask(self, now, budget):
        assert not self.busy, 'asked while a plan is in flight'
        self.asked.append((now, budget))
        self.done.clear()
        self.timeline.at(self.timeline.now + self.cost, self._finish)

    def _finish(self):
        self.result = self.loop.plan(*self.asked[-1])
        self.done.set()

    def take(self):
        if self.busy:
            return None
        result, self.result = self.result, None
        return result

    def stop(self):
        pass


class Rig:
    """A driver, and everything it tells."""

    def __init__(self, cost=0, spec=None, **settings):
        self.timeline = ScriptedTimeline()
        self.loop = make_loop(spec, **{'n_action_steps': 1, **settings})
        self.published, self.ticks, self.reasons = [], [], []
        self.cost_of_publishing = itertools.repeat(0)
        self.driver = Driver(self.loop, self.timeline, self.publish, self.on_tick,
                             self.reasons.append, self.make_planner)
        self.planner.cost = cost

    def make_planner(self, loop):
        self.planner = ScriptedPlanner(loop, self.timeline)
        return self.planner

    def publish(self, action):
        self.timeline.advance(next(self.cost_of_publishing))
        self.published.append((self.timeline.now, action))

    def on_tick(self, tick):
        self.ticks.append(tick)
        if len(self.ticks) >= self.count:
            self.driver.stop()

    def run(self, count):
        self.count = count
        self.driver.run()
        return self.ticks

    def camera(self, count, first=T0, every=PERIOD, delay=0, jitter=()):
        """Let `count` frames arrive `delay` after their stamps."""
        delays = itertools.chain(jitter, itertools.repeat(0))
        for k, more in zip(range(count), delays):
            stamp = first + k * every
            arrival = stamp + delay + more
            self.timeline.at(arrival, lambda s=stamp, a=arrival: feed(self.loop, s, a))

    @property
    def rungs(self):
        return [tick.rung for tick in self.ticks]

    @property
    def times(self):
        return [instant for instant, _ in self.published]


# -- rhythm ------------------------------------------------------------------------------------

def test_every_period_publishes_once_at_an_absolute_instant():
    rig = Rig(cost=7 * MS)
    rig.camera(12)
    ticks = rig.run(10)
    assert rig.rungs == [Rung.FRESH] * 10
    assert [tick.tick for tick in ticks] == list(range(10))
    assert rig.times == [T0 + k * PERIOD + 7 * MS for k in range(1, 11)]


def test_a_policy_of_10_hz_is_planned_anew_100_times_a_second_and_each_frame_encoded_once():
    rig = Rig(cost=3 * MS, replan_ticks=1, control_rate=100.0, deadline=0.01)
    rig.loop.keep(replace(rig.loop.rules, capacity=64))  # the node's default
    jitter = [(k * 7 % 5 - 2) * MS // 2 for k in range(300)]
    rig.camera(300, every=10 * MS, delay=2 * MS, jitter=jitter)
    rig.cost_of_publishing = itertools.repeat(MS // 5)
    ticks = rig.run(250)
    assert set(rig.rungs[1:]) == {Rung.FRESH} and not any(tick.missed for tick in ticks)
    assert max(tick.stamp_to_publish_s for tick in ticks[1:]) < 0.010
    assert 245 <= len(rig.loop.engine.encoded) <= 260


def test_ticks_align_once_to_the_arrival_of_frames():
    rig = Rig(cost=1 * MS)
    rig.camera(10, delay=30 * MS)
    rig.run(5)
    phases = [(instant - T0) % PERIOD for instant in rig.times]
    assert phases == [1 * MS, 30 * MS, 31 * MS, 31 * MS, 31 * MS]  # the second needs no plan yet


def test_a_tick_waits_for_a_frame_that_is_about_to_come():
    rig = Rig(cost=1 * MS, observation_timeout=0.5)
    rig.camera(10, delay=5 * MS, jitter=[0, 0, 0, 0, 8 * MS])
    ticks = rig.run(7)
    stamps = [action.actions is not None and tick.stamp_to_publish_s
              for tick, (_, action) in zip(ticks, rig.published)]
    # the late fifth frame is planned from all the same: 5 + 8 ms of travel and 1 of planning
    assert 0.014 in [pytest.approx(value) for value in stamps]
    assert not any(tick.missed for tick in ticks)


def test_a_tick_does_not_wait_for_a_frame_past_what_planning_needs():
    rig = Rig(cost=20 * MS, deadline=0.05)
    rig.loop.latencies.record('encode', 0)
    rig.loop.latencies.record(1, 20 * MS)
    rig.camera(10, delay=5 * MS, jitter=[0, 0, 0, 0, 45 * MS])
    ticks = rig.run(6)
    assert not any(tick.missed for tick in ticks)
    # the fourth tick had no new frame
    assert rig.rungs == [Rung.FRESH] * 3 + [Rung.CACHED] + [Rung.FRESH] * 2


def test_a_new_control_rate_holds_from_the_next_period_on():
    rig = Rig()
    rig.camera(20)
    rig.timeline.at(T0 + 350 * MS, lambda: setattr(
        rig.loop, 'settings', replace(rig.loop.settings, control_rate=20.0)))
    rig.run(6)
    assert rig.times == [T0 + ms * MS for ms in (100, 200, 300, 400, 450, 500)]


# -- deadline ----------------------------------------------------------------------------------

@pytest.mark.parametrize(('cost', 'missed'), [(50 * MS, False), (50 * MS + 1, True)])
def test_an_action_is_missed_when_it_leaves_after_the_deadline_and_not_at_it(cost, missed):
    rig = Rig(deadline=0.05)
    rig.camera(3)
    rig.cost_of_publishing = itertools.repeat(cost)
    tick = rig.run(1)[0]
    assert tick.missed is missed
    assert tick.slack_s == pytest.approx((50 * MS - cost) / 1e9)


def test_a_plan_that_comes_late_costs_freshness_and_no_deadline():
    rig = Rig(cost=70 * MS, deadline=0.05)
    rig.camera(8)
    ticks = rig.run(4)
    assert rig.rungs == [Rung.STOP, Rung.CHUNK, Rung.CHUNK, Rung.CHUNK]
    assert not any(tick.missed for tick in ticks)
    cut_off = 50 * MS - PUBLISH_MARGIN_NS
    late = [instant - T0 - PERIOD * (k + 2) for k, instant in enumerate(rig.times)]
    assert late == [cut_off] * 3
    assert [tick.steps for tick in ticks] == [0, 0, 0, 0]
    assert math.isnan(ticks[1].stamp_to_publish_s)


@pytest.mark.parametrize(('late', 'missed'), [
    (0, []), (5 * MS, []), (12 * MS, []), (20 * MS, [0])])
def test_a_wait_for_a_plan_ends_earlier_by_as_much_as_the_machine_wakes_late(late, missed):
    class Late(ScriptedTimeline):
        def sleep_until(self, instant, wake):
            super().sleep_until(instant, wake)
            if not wake.is_set():
                self.now += late

        def advance(self, ns):
            self.now += ns

    rig = Rig(cost=260 * MS, deadline=0.05)
    rig.timeline.__class__ = Late
    rig.camera(30)
    ticks = rig.run(12)
    assert len(rig.planner.asked) == 4
    assert [tick.tick for tick in ticks if tick.missed] == missed  # that with no chunk to follow


def test_an_engine_slower_than_the_period_is_asked_once_at_a_time_and_every_tick_publishes():
    rig = Rig(cost=230 * MS, deadline=0.05)
    rig.camera(14)
    ticks = rig.run(10)
    assert len(rig.planner.asked) == 4
    assert set(rig.rungs[3:]) == {Rung.CHUNK}
    assert not any(tick.missed for tick in ticks)


def test_the_cost_of_a_late_plan_falls_to_the_tick_that_finds_it():
    rig = Rig(cost=130 * MS, deadline=0.05)
    rig.loop.engine.denoise_ns = 9 * MS  # what the loop's own clock sees
    rig.camera(8)
    ticks = rig.run(4)
    assert [math.isfinite(tick.plan_s) for tick in ticks[:3]] == [False, False, True]


def test_the_budget_of_a_plan_is_what_the_deadline_leaves_after_publishing():
    rig = Rig(cost=1 * MS, deadline=0.05)
    rig.camera(5)
    rig.cost_of_publishing = itertools.repeat(3 * MS)
    rig.run(2)
    first, second = (budget for _, budget in rig.planner.asked)
    assert first == 50 * MS - PUBLISH_MARGIN_NS
    assert second == first - 3 * MS


def test_periods_in_which_no_tick_ran_are_recorded_as_missed():
    rig = Rig(cost=1 * MS)
    rig.camera(12)
    rig.cost_of_publishing = iter([0, 340 * MS, 0, 0, 0])
    ticks = rig.run(7)
    assert [tick.missed for tick in ticks] == [False, True, True, True, True, False, False]
    assert rig.rungs[2:5] == [Rung.STOP] * 3
    assert [tick.tick for tick in ticks] == list(range(7))
    assert (rig.times[2] - T0) % PERIOD == 1 * MS


# -- faults ------------------------------------------------------------------------------------

def test_a_publisher_that_raises_costs_one_action_and_is_explained():
    rig = Rig()
    rig.camera(5)
    publish = rig.driver._publish

    def fail_once(action):
        rig.driver._publish = publish
        raise RuntimeError('wire cut')

    rig.driver._publish = fail_once
    rig.run(2)
    assert rig.rungs == [Rung.STOP, Rung.FRESH]
    assert rig.reasons == ['the action was not published: wire cut', '']


def test_a_reason_is_told_once_and_so_is_its_end():
    rig = Rig()
    rig.timeline.at(T0 + 350 * MS, lambda: feed(rig.loop, T0 + 350 * MS))
    rig.run(5)
    assert rig.reasons == ['no image from camera front yet', '']
    assert rig.rungs == [Rung.STOP] * 3 + [Rung.FRESH, Rung.CHUNK]


def test_a_stream_that_ends_goes_down_the_ladder_to_silence():
    rig = Rig(observation_timeout=0.2, action_timeout=1.2)
    rig.camera(2)
    rig.run(15)
    order = [rung for rung, _ in itertools.groupby(rig.rungs)]
    assert order == [Rung.FRESH, Rung.CACHED, Rung.CHUNK, Rung.HOLD, Rung.STOP]
    assert rig.reasons[-1] == 'the newest image from camera front is too old'


def test_a_tick_that_fails_leaves_the_robot_on_a_hold_and_says_so():
    spec = tiny_spec()
    rig = Rig(spec=spec)
    rig.camera(5)
    act = rig.loop.act
    rig.loop.act = lambda now, plan: act(now, plan) if not rig.ticks else 1 / 0
    with pytest.raises(ZeroDivisionError):
        rig.run(3)
    assert [action.rung for _, action in rig.published] == [Rung.FRESH, Rung.HOLD]
    assert rig.reasons == ['ticking ended: ZeroDivisionError: division by zero']


# -- reset and jumps ---------------------------------------------------------------------------

def test_after_a_reset_nothing_that_was_planned_before_is_published():
    rig = Rig(cost=5 * MS)
    rig.camera(3)
    rig.timeline.at(T0 + 250 * MS, rig.driver.reset)
    rig.run(5)
    assert rig.rungs == [Rung.FRESH] * 2 + [Rung.STOP] * 3
    assert rig.loop.newest_frame is None and not len(rig.loop.cache)


def test_a_reset_during_a_plan_stops_at_once_and_discards_it():
    rig = Rig(cost=130 * MS)
    rig.camera(6)
    rig.timeline.at(T0 + 360 * MS, rig.driver.reset)  # a plan is in flight until 430
    rig.run(5)
    assert rig.rungs == [Rung.STOP, Rung.STOP, Rung.CHUNK, Rung.STOP, Rung.STOP]
    assert rig.planner.asked[-1][0] == T0 + 500 * MS and rig.reasons == []


def test_a_reset_keeps_the_rhythm():
    rig = Rig()
    rig.camera(9)
    rig.timeline.at(T0 + 250 * MS, rig.driver.reset)
    rig.run(5)
    assert [(instant - T0) % PERIOD for instant in rig.times] == [0] * len(rig.times)


@pytest.mark.parametrize('jump', [3600 * 1000 * MS, -3600 * 1000 * MS])
def test_a_jump_of_the_timeline_is_no_stall(jump):
    rig = Rig()
    rig.camera(2)

    def leap():
        rig.timeline.now += jump
        rig.driver.reset()

    rig.timeline.at(T0 + 250 * MS, leap)
    ticks = rig.run(4)
    assert len(ticks) == 4 and not any(tick.missed for tick in ticks)
    assert abs(rig.timeline.now - (T0 + 250 * MS + jump + 2 * PERIOD)) <= PERIOD


def test_one_slow_publication_does_not_cost_the_next_plans():
    rig = Rig(cost=1 * MS)
    rig.camera(12)
    rig.cost_of_publishing = iter([0, 60 * MS, 0, 0, 0, 0])
    rig.run(6)
    assert rig.rungs == [Rung.FRESH] * 6


def test_a_stall_is_recorded_period_by_period_up_to_a_bound():
    rig = Rig()
    rig.camera(2)
    rig.cost_of_publishing = iter([(MAX_SKIPPED + 500) * PERIOD])
    assert len(rig.run(MAX_SKIPPED + 2)) == MAX_SKIPPED + 2
    assert rig.ticks[-1].missed is False


# -- threads -----------------------------------------------------------------------------------

def test_stop_ends_the_threads_and_no_action_follows():
    loop = make_loop(n_action_steps=1, control_rate=100.0, deadline=0.01)
    timeline, ticked, published = SteadyTimeline(T0), threading.Semaphore(0), []
    driver = Driver(loop, timeline, published.append, lambda tick: ticked.release(),
                    lambda reason: None)
    driver.start()
    for _ in range(5):
        stamp = timeline.now_ns()
        feed(loop, stamp)
        assert ticked.acquire(timeout=20)
    driver.stop()
    count = len(published)
    assert count and not driver._thread.is_alive() and not driver._planner._thread.is_alive()
    assert len(published) == count


def test_a_planner_gives_each_result_once_and_survives_what_an_engine_raises():
    loop = make_loop(tiny_spec())
    planner = Planner(loop)
    assert not planner.busy and planner.take() is None
    loop.observe_frame(frame_at(T0))
    loop.engine.encode = None
    feed(loop, T0)
    planner.ask(T0, 50 * MS)
    assert planner.done.wait(20)
    result = planner.take()
    assert isinstance(result, NotReady) and 'TypeError' in result.reason
    assert planner.take() is None
    planner.stop()


def test_a_driver_that_never_started_can_be_stopped():
    driver = Driver(make_loop(), SteadyTimeline(T0), None, None, None)
    driver.stop()
    assert not driver._planner._thread.is_alive()
