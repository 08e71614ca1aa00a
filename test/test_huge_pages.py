"""Huge pages: only memory of this process's own, whole pages of it, and what was there stays."""

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.engines.pages import HUGE, spans, use_huge_pages

LINE = '{:x}-{:x} {} 00000000 00:00 {}   {}'


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 30))
def test_a_span_is_all_whole_pages_of_a_mapping(start, size):
    found = list(spans([LINE.format(start, start + size, 'rw-p', 0, '')]))
    for first, end in found:
        assert start <= first < end <= start + size
        assert first % HUGE == end % HUGE == 0
        assert first - start < HUGE and start + size - end < HUGE
    assert found or size < 2 * HUGE


@pytest.mark.parametrize('access, inode, name', [
    ('rw-p', 7, '/a file with blanks'), ('r--p', 0, ''), ('rw-s', 0, ''), ('rw-p', 0, '[stack]')])
def test_files_shared_and_read_only_memory_and_stacks_are_left_alone(access, inode, name):
    assert not list(spans([LINE.format(0, 8 * HUGE, access, inode, name)]))
    assert list(spans([LINE.format(0, 8 * HUGE, 'rw-p', 0, '[heap]')]))


def test_values_stay_what_they_were():
    memory = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(memory, np.int64)
    values[:] = np.arange(len(values))
    moved = use_huge_pages()
    assert (values == np.arange(len(values))).all()
    if not moved:
        pytest.skip('this system has no huge pages that a process may ask for')
