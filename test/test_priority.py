"""What the system denies is told with its cure, and what it grants holds for the thread."""

import os
import threading

import pytest

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime import priority
from diffusion_policy_rt.runtime.priority import Priority, parse_cpus


def in_a_thread(claim):
    """Return what is told, and the cores of a thread that claimed."""
    told, cores = [], []

    def run():
        claim(told.append)
        cores.append(os.sched_getaffinity(threading.get_native_id()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return told, cores[0]


def test_by_default_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(priority, '_lock_memory', lambda: 1 / 0)
    assert in_a_thread(Priority().claim) == ([], os.sched_getaffinity(0))


def test_the_cores_hold_for_the_thread_alone():
    before = os.sched_getaffinity(0)
    first = min(before)
    assert in_a_thread(Priority(cpus=(first,)).claim) == ([], {first})
    assert os.sched_getaffinity(0) == before


def test_all_threads_of_the_process_are_raised_with_it_and_given_back(monkeypatch):
    asked, listed = {}, os.listdir
    monkeypatch.setattr(os, 'listdir', lambda path: [*listed(path), '7654321'])  # a middleware's
    monkeypatch.setattr(os, 'sched_setscheduler', lambda thread, policy, param: asked.update(
        {thread: (policy & ~os.SCHED_RESET_ON_FORK, param.sched_priority,
                  bool(policy & os.SCHED_RESET_ON_FORK))}))
    ticking = []
    told, _ = in_a_thread(lambda warn: (ticking.append(threading.get_native_id()),
                                        Priority(50).claim(warn)))
    here = threading.get_native_id()
    assert told == [] and asked[ticking[0]] == (os.SCHED_FIFO, 50, True)
    assert asked[here] == (os.SCHED_FIFO, 1, True), 'what they start is ordinary again'
    assert asked[7654321] == asked[here]
    Priority(50).release()
    assert asked[here] == (os.SCHED_OTHER, 0, True)
    asked.clear()
    Priority().release()
    assert not asked


def test_what_is_rehearsed_runs_as_a_planner_will_and_no_longer(monkeypatch):
    asked, here = [], threading.get_native_id()
    monkeypatch.setattr(os, 'sched_setscheduler', lambda thread, policy, param: asked.append(
        (thread, policy & ~os.SCHED_RESET_ON_FORK, param.sched_priority)))
    for priority_, told in ((50, [(here, os.SCHED_FIFO, 1)]), (1, []), (0, [])):
        asked.clear()
        with pytest.raises(KeyError), Priority(priority_).rehearsed():
            assert asked == told
            raise KeyError
        assert asked == told + [(here, os.SCHED_OTHER, 0)][:len(told)]


def test_a_thread_of_the_lowest_priority_raises_no_other(monkeypatch):
    asked = []
    monkeypatch.setattr(os, 'sched_setscheduler', lambda thread, *_: asked.append(thread))
    in_a_thread(Priority(1).claim)
    assert len(asked) == 1 and asked[0] != threading.get_native_id()


def test_what_is_denied_is_told_with_its_cure_and_the_rest_is_asked_for(monkeypatch):
    def deny(*_):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'sched_setscheduler', deny)
    monkeypatch.setattr(priority, '_lock_memory', deny)
    told, _ = in_a_thread(Priority(50, (100_000,), True).claim)
    assert [text.split(';')[0] for text in told] == [
        'the system denies SCHED_FIFO 50', 'the system denies cores 100000',
        'the system denies locked memory']
    assert 'limits.conf' in told[0] and 'not permitted' in told[2]


@pytest.mark.parametrize(('text', 'cpus'), [('', ()), ('3', (3,)), ('0, 2', (0, 2))])
def test_cores_are_listed_by_number(text, cpus):
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize('text', ['a', '-1', '0;1', '1.5'])
def test_a_list_of_cores_that_is_none_is_refused(text):
    with pytest.raises(SpecError, match='such as 0,2'):
        parse_cpus(text)
