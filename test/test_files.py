"""A file is written whole or not at all."""

import pytest

from diffusion_policy_rt.errors import BundleError, DprtError
from diffusion_policy_rt.files import whole_file


def test_what_was_written_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with whole_file(path) as partial:
        partial.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new' and list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text('ne')
        raise KeyboardInterrupt
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('failure', [DprtError, BundleError])
def test_what_cannot_be_written_is_told_in_one_line(tmp_path, failure):
    with pytest.raises(failure, match='cannot write .*none/a.json: No such file'):
        with whole_file(tmp_path / 'none' / 'a.json', failure) as partial:
            partial.write_text('x')
