"""Which simulated robot a policy is for, and what only Push-T has."""

import dataclasses

import pytest
from fakes import tiny_spec

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import DataError, DprtError, SpecError
from diffusion_policy_rt.replay import modes
from diffusion_policy_rt.replay.evaluate import Evaluation, make_controller, simulated
from diffusion_policy_rt.sim.tasks import ARM, PUSHT, TASKS, find_task, task_of


@pytest.mark.parametrize('name', TASKS)
def test_a_shipped_policy_is_for_the_robot_of_its_name(name):
    assert task_of(read_bundle(name).spec, name) is TASKS[name]
    assert simulated(Evaluation(name)) is TASKS[name] is find_task(name)


@pytest.mark.parametrize('change', [
    {'rate': 20.0}, {'cameras': ()},
    {'cameras': lambda cameras: (dataclasses.replace(cameras[0], name='rear'), cameras[1])}])
def test_a_policy_that_differs_is_for_none(change):
    spec = read_bundle('arm').spec
    for name, value in change.items():
        value = value(getattr(spec, name)) if callable(value) else value
        object.__setattr__(spec, name, value)
    served = [task for task in TASKS.values() if task.serves(spec)]
    if change == {'cameras': ()}:
        assert served == [ARM]  # it may do without looking
    else:
        assert not served


def test_another_robots_policy_is_told_what_there_is():
    with pytest.raises(SpecError, match='mine is a policy of no simulated robot .*pusht: .*arm: '):
        task_of(tiny_spec(), 'mine')
    with pytest.raises(SpecError, match='no simulated robot .boat.; use one of pusht, arm'):
        find_task('boat')


def test_the_only_camera_may_have_any_name_and_two_may_not():
    assert PUSHT.camera('observation_image') == 'front' and ARM.camera('wrist') == 'wrist'
    spec = read_bundle('pusht').spec
    renamed = dataclasses.replace(spec, cameras=(dataclasses.replace(
        spec.cameras[0], name='any'),))
    assert PUSHT.serves(renamed)


def test_what_only_push_t_has_is_refused_for_the_arm():
    with pytest.raises(DataError, match='compares states of Push-T'):
        make_controller(Evaluation('nearest', task='arm'))
    with pytest.raises(SpecError, match='arm is no policy of Push-T'):
        modes.make_loop(Evaluation('arm'))


def test_a_simulator_that_is_not_installed_is_told_with_its_extra():
    absent = dataclasses.replace(ARM, robot='no_such_simulator:Arm')
    with pytest.raises(DprtError, match=r'pip install "diffusion_policy_rt\[arm\]"'):
        absent.make()
