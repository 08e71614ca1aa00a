"""The record of the ticks says what happened, and nothing that did not."""

import io
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.trace import (
    FIELDS, Rung, Tick, percentiles, read_values, summarise, write_lines)

durations = st.floats(-1, 10) | st.just(math.nan)
counts = st.integers(0, 10**6)
ticks = st.builds(Tick, counts, durations, durations, durations, durations, durations, counts,
                  st.sampled_from(Rung), counts, durations, durations, st.booleans())


def key(tick):
    return [None if math.isnan(value) else value for value in tick.values()]


@given(ticks)
def test_reading_the_values_of_a_tick_gives_the_tick(tick):
    read = read_values(tick.values())
    assert key(read) == key(tick)
    assert type(read.tick) is int and type(read.missed) is bool and type(read.rung) is Rung


def test_the_fields_are_those_of_the_timing_topic_in_its_order():
    assert FIELDS == (
        'tick', 'stamp_to_publish_s', 'plan_s', 'encode_s', 'denoise_s', 'slack_s', 'steps',
        'rung', 'cache_hits', 'observation_age_s', 'camera_skew_s', 'missed')


def test_the_rungs_fall_from_a_fresh_plan_to_stop():
    assert [r.name for r in Rung] == ['FRESH', 'FEWER', 'CACHED', 'CHUNK', 'HOLD', 'STOP']


@given(st.lists(ticks))
def test_a_summary_counts_every_tick_on_one_rung(made):
    summary = summarise(made)
    assert summary['ticks'] == len(made) == sum(summary['rungs'].values())
    assert summary['missed'] == sum(t.missed for t in made)
    json.dumps(summary, allow_nan=False)


@given(st.lists(durations))
def test_percentiles_are_of_the_finite_values_and_in_order(values):
    made = percentiles(values)
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        assert set(made.values()) == {None}
    else:
        assert min(finite) <= made['p50'] <= made['p95'] <= made['p99'] <= made['max']
        assert made['max'] == max(finite)


@given(st.lists(ticks, max_size=3))
def test_each_line_is_strict_json_with_null_for_what_a_tick_has_not(made):
    file = io.StringIO()
    write_lines(made, file)
    lines = [json.loads(line, parse_constant=None) for line in file.getvalue().splitlines()]
    assert 'NaN' not in file.getvalue() and [list(x) for x in lines] == [list(FIELDS)] * len(made)
    for line, tick in zip(lines, made):
        assert line['rung'] == tick.rung.name.lower() and line['tick'] == tick.tick
        assert (line['plan_s'] is None) == math.isnan(tick.plan_s)
