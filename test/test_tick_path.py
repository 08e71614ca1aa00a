"""What stays off the tick's way: garbage collection, telling, and what telling raises."""

import gc
import threading

import pytest

from diffusion_policy_rt.runtime.collector import ALL, SOME, Collector


@pytest.fixture
def collector():
    made = Collector()
    made.start()
    yield made
    made.stop()


def test_nothing_is_collected_but_in_a_sweep(collector):
    assert not gc.isenabled()
    before = sum(s['collections'] for s in gc.get_stats())
    kept = [[] for _ in range(5000)]
    assert sum(s['collections'] for s in gc.get_stats()) == before and kept


def test_a_sweep_collects_the_young_often_and_the_old_seldom(collector):
    before = [s['collections'] for s in gc.get_stats()]
    for _ in range(ALL):
        collector.sweep()
    counts = [s['collections'] - b for s, b in zip(gc.get_stats(), before)]
    assert counts == [ALL - ALL // SOME, ALL // SOME - 1, 1]


def test_the_automatism_is_given_back():
    made = Collector()
    made.start()
    made.stop()
    assert gc.isenabled() and not gc.get_freeze_count()


def test_a_teller_tells_in_order_and_survives_what_is_raised():
    pytest.importorskip('rclpy')
    from diffusion_policy_rt.ros.teller import Teller
    told, warned, threads = [], [], set()

    def tell(what):
        threads.add(threading.get_ident())
        told.append(1 / what)

    teller = Teller(warned.append)
    for what in (1, 0, 2):
        teller.tell(tell, what)
    teller.close()
    assert told == [1, 0.5] and threading.get_ident() not in threads
    assert warned == ['a tick could not be told: ZeroDivisionError: division by zero']
