"""A built engine is used only whole and only for what it was built for."""

import os

import pytest

from diffusion_policy_rt.engines import cache
from diffusion_policy_rt.errors import EngineError

FACTS = {'graph': 'a' * 64, 'tensorrt': '11.4.0', 'gpu': 'H200 9.0', 'driver': '595'}


class Builder:
    """Counts its builds."""

    def __init__(self, plan=b'plan'):
        self.plan, self.count = plan, 0

    def __call__(self):
        self.count += 1
        return self.plan


def only(folder):
    files = list(folder.iterdir())
    assert len(files) == 1
    return files[0]


def test_an_engine_is_built_once(tmp_path):
    build = Builder()
    assert [cache.load_or_build('p', FACTS, build, tmp_path) for _ in range(3)] == [b'plan'] * 3
    assert build.count == 1


@pytest.mark.parametrize('fact', FACTS)
def test_whatever_it_depends_on_makes_another_engine(tmp_path, fact):
    build = Builder()
    cache.load_or_build('p', FACTS, build, tmp_path)
    cache.load_or_build('p', FACTS | {fact: 'other'}, build, tmp_path)
    assert build.count == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('damage, reason', [
    (lambda data: data[:-1], 'damaged'), (lambda data: data[:20], 'built anew'),
    (lambda data: b'', 'no engine'), (lambda data: b'garbage' + data, 'no engine'),
    (lambda data: data[:-4] + b'PLAN', 'damaged')])
def test_a_damaged_engine_is_built_anew_with_a_word(tmp_path, caplog, damage, reason):
    build = Builder()
    cache.load_or_build('p', FACTS, build, tmp_path)
    path = only(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load_or_build('p', FACTS, build, tmp_path) == b'plan'
    assert build.count == 2 and reason in caplog.text
    assert cache.load_or_build('p', FACTS, build, tmp_path) == b'plan' and build.count == 2


def test_an_engine_of_another_gpu_under_this_one_s_name_is_not_used(tmp_path, caplog):
    cache.load_or_build('p', FACTS | {'gpu': 'Orin 8.7'}, Builder(b'foreign'), tmp_path)
    os.rename(only(tmp_path), tmp_path / f'p-{cache.key(FACTS)[:16]}.engine')
    build = Builder()
    assert cache.load_or_build('p', FACTS, build, tmp_path) == b'plan' and build.count == 1
    assert 'gpu Orin 8.7, not H200 9.0' in caplog.text


@pytest.mark.parametrize('failure', [KeyboardInterrupt, EngineError])
def test_a_build_that_fails_leaves_the_old_engine(tmp_path, failure):
    cache.load_or_build('p', FACTS, Builder(b'old'), tmp_path)
    path = only(tmp_path)
    before = path.read_bytes()
    path.write_bytes(before[:-1])

    def failing():
        raise failure

    with pytest.raises(failure):
        cache.load_or_build('p', FACTS, failing, tmp_path)
    assert only(tmp_path).read_bytes() == before[:-1]


def test_a_kill_while_it_is_written_leaves_the_old_engine(tmp_path, monkeypatch):
    cache.load_or_build('p', FACTS, Builder(b'old'), tmp_path)
    path = only(tmp_path)
    path.write_bytes(b'foreign')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        cache.load_or_build('p', FACTS, Builder(), tmp_path)
    assert only(tmp_path).read_bytes() == b'foreign'


def test_it_lies_in_the_user_s_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache.folder() == tmp_path / 'diffusion_policy_rt'
