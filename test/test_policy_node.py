"""The policy node over real topics: lifecycle, gate, faults. Counters and contents, no times."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ros_rig import (
    ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, FRESH, QUICK, Process, Robot, drive, is_hold,
    overrides)

from diffusion_policy_rt.runtime.trace import FIELDS, Rung


def errors(captured):
    return [line for line in captured.err.splitlines() if '[ERROR]' in line]


# -- the contract ------------------------------------------------------------------------------

def test_an_active_node_publishes_the_rest_of_the_chunk_in_every_period(robot, make_node, bundle):
    drive(robot, make_node, enable_output=True)
    robot.until(lambda: sum(t.rung in FRESH for t in robot.ticks) >= 3, 'fresh plans')
    robot.more(robot.actions, 5)
    msg = robot.actions[-1]
    assert msg.joint_names == list(bundle.spec.action.names) == ['y', 'x']
    due = [p.time_from_start.sec + p.time_from_start.nanosec / 1e9 for p in msg.points]
    assert due == pytest.approx([(i + 1) / bundle.spec.rate for i in range(len(due))])
    assert msg.header.stamp.sec == 0
    values = np.array([point.positions for point in msg.points])
    assert (values >= bundle.spec.action.low).all() and (values <= bundle.spec.action.high).all()
    assert not robot.shadows


def test_each_tick_is_told_with_named_fields(robot, make_node):
    drive(robot, make_node)
    robot.until(lambda: any(t.rung in FRESH for t in robot.ticks), 'a fresh plan')
    assert [dim.label for dim in robot.layouts[-1].dim] == list(FIELDS)
    assert {(dim.size, dim.stride) for dim in robot.layouts[-1].dim} == {(1, 1)}
    numbers = [tick.tick for tick in robot.ticks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    fresh = next(t for t in robot.ticks if t.rung in FRESH)
    assert fresh.steps in (1, 2) and fresh.stamp_to_publish_s > 0 and fresh.plan_s > 0
    assert math.isfinite(fresh.camera_skew_s)


def test_the_info_is_latched_and_says_what_drives_the_robot(robot, make_node, bundle):
    make_node()
    assert robot.transit(CONFIGURE)
    late = Robot(context=robot.context)
    late.until(lambda: late.infos, 'the latched info')
    info = late.infos[0]
    late.close()
    assert info['digest'] == bundle.digest and info['engine'] == 'onnxruntime'
    assert info['steps'] == [1, 2, 4, 8] and set(info['plan_s']) == {'1', '2'}
    assert set(info['dtypes']) == {'encoder_front', 'encoder_wrist', 'denoiser'}
    assert info['caches']['condition'] and info['caches']['tiles'] == {
        'front': True, 'wrist': True}
    assert [note.split(':')[0] for note in info['caches']['notes']] == ['blocks']


def test_what_is_asked_of_caches_in_vain_is_warned_of_when_it_is_asked(
        robot, make_node, monkeypatch):
    from rclpy.parameter import Parameter

    from diffusion_policy_rt.engines.caching import Caching
    asked, own = [], Caching.in_vain
    monkeypatch.setattr(Caching, 'in_vain', lambda self, rules: (
        asked.append((rules.blocks, own(self, rules))) or asked[-1][1]))
    node = make_node()
    assert robot.transit(CONFIGURE)
    assert asked == [(False, [])]
    assert node.set_parameters([Parameter('cache.blocks', value=True)])[0].successful
    assert len(asked) == 2 and asked[1][0] and 'dprt cache' in asked[1][1][0]
    node.set_parameters([Parameter('deadline', value=0.02)])
    assert len(asked) == 2  # what did not change is not warned of again


def test_diagnostics_tell_ticks_inputs_and_engine(robot, make_node):
    drive(robot, make_node)
    robot.until(lambda: len(robot.ticks) > 10, 'ticks')
    values = {v.key: v.value for v in robot.status('loop').values}
    assert int(values['ticks']) > 0 and 'plan_s.p99' in values
    camera = {v.key: v.value for v in robot.status('camera wrist').values}
    assert camera['received_as'] == '57x45 rgb8' and float(camera['rate_hz']) > 0
    assert robot.status('engine').message == 'onnxruntime'
    assert isinstance(robot.status('loop').level, bytes)


# -- the gate ----------------------------------------------------------------------------------

def test_a_dry_run_publishes_on_the_shadow_topic_only(robot, make_node):
    drive(robot, make_node)
    robot.more(robot.shadows, 10)
    assert not robot.actions


def test_enable_output_opens_and_closes_the_way_and_a_hold_passes_last(robot, make_node):
    node = drive(robot, make_node)
    robot.more(robot.shadows, 2)
    node.set_parameters(overrides({'enable_output': True}))
    robot.more(robot.actions, 3)
    node.set_parameters(overrides({'enable_output': False}))
    robot.until(lambda: is_hold(robot.actions[-1], robot), 'the last hold')
    count = len(robot.actions)
    robot.more(robot.shadows, 10)
    assert len(robot.actions) == count


def test_deactivate_ends_in_one_hold(robot, make_node):
    drive(robot, make_node, enable_output=True)
    robot.more(robot.actions, 3)
    assert robot.transit(DEACTIVATE)
    robot.until(lambda: is_hold(robot.actions[-1], robot), 'the hold')
    holds, ticks = len(robot.actions), len(robot.ticks)
    robot.more(robot.diagnostics, 2)
    assert len(robot.actions) == holds and len(robot.ticks) <= ticks + 1
    assert not is_hold(robot.actions[-2], robot)
    assert robot.transit(CLEANUP) and robot.state() == 'unconfigured'


def test_stop_disarms_and_start_arms_again(robot, make_node):
    drive(robot, make_node, enable_output=True)
    robot.more(robot.actions, 3)
    assert robot.trigger('stop').success
    robot.until(lambda: is_hold(robot.actions[-1], robot), 'the hold')
    count = len(robot.actions)
    robot.more(robot.diagnostics, 2)
    assert len(robot.actions) == count and robot.status('loop').message == 'not running'
    assert robot.state() == 'active'
    assert robot.trigger('start').success
    robot.more(robot.actions, 3)


def test_reset_holds_and_plans_anew(robot, make_node):
    node = drive(robot, make_node, enable_output=True)
    robot.more(robot.actions, 3)
    seen = len(robot.actions)
    robot.faults['silent'] = 'front'  # nothing to plan from after the reset
    assert robot.trigger('reset').success
    robot.until(lambda: robot.ticks and robot.ticks[-1].rung == Rung.STOP, 'silence')
    robot.until(lambda: any(is_hold(msg, robot) for msg in robot.actions[seen:]), 'the hold')
    assert not len(node._runner.loop.cache)
    robot.faults.clear()
    robot.more(robot.actions, 3)


def test_nothing_starts_before_the_node_is_active(robot, make_node):
    make_node(enable_output=True)
    robot.start()
    assert not robot.trigger('start').success
    assert robot.transit(CONFIGURE)
    answer = robot.trigger('start')
    assert not answer.success and 'activate it first' in answer.message
    robot.more(robot.diagnostics, 2)
    assert not robot.actions and not robot.shadows and not robot.ticks


# -- parameters --------------------------------------------------------------------------------

def test_a_set_that_contradicts_itself_is_refused_as_a_set(robot, make_node):
    node = drive(robot, make_node)
    result = robot.set_together({'control_rate': 10.0, 'deadline': 0.2})
    assert not result.successful and 'longer than the control period 0.1 s' in result.reason
    assert node.get_parameter('control_rate').value == 20.0
    assert node._runner.loop.settings.control_rate == 20.0


def test_a_set_that_fits_together_takes_effect_at_once(robot, make_node):
    node = drive(robot, make_node)
    assert not node.set_parameters(overrides({'control_rate': 40.0}))[0].successful
    result = node.set_parameters_atomically(overrides({
        'control_rate': 40.0, 'deadline': 0.02, 'cache.capacity': 5,
        'cache.front.threshold': 2.0}))
    assert result.successful
    assert node._runner.loop.tiling.rules['front'].threshold == 2.0
    assert node._runner.loop.settings.deadline == 0.02 and node._runner.loop.cache.capacity == 5
    robot.more(robot.ticks, 5)


def test_parameters_that_are_set_in_motion_cost_no_tick_and_no_action(robot, make_node):
    node = drive(robot, make_node, enable_output=True)
    robot.until(lambda: any(tick.rung in FRESH for tick in robot.ticks), 'a fresh plan')
    robot.more(robot.actions, 1)
    first, sent = len(robot.ticks), len(robot.actions)
    for deadline in np.linspace(0.03, 0.05, 10):
        assert node.set_parameters(overrides({'deadline': float(deadline)}))[0].successful
        robot.more(robot.ticks, 2)
    ticks = robot.ticks[first:]
    numbers = [tick.tick for tick in ticks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    silent = sum(tick.rung == Rung.STOP for tick in ticks)
    assert silent == sum(tick.missed and tick.rung == Rung.STOP for tick in ticks)
    robot.until(lambda: len(robot.actions) - sent >= len(ticks) - silent, 'an action per tick')


@pytest.mark.parametrize(('name', 'value'), [
    ('policy', 'elsewhere'), ('action_type', 'twist_stamped'), ('deadline', 99.0),
    ('limits.x.max_velocity', 1.0), ('cameras.front.topic', 'other')])
def test_read_only_and_out_of_range_values_are_refused(robot, make_node, name, value):
    node = make_node()
    assert robot.transit(CONFIGURE)
    before = node.get_parameter(name).value
    assert not node.set_parameters(overrides({name: value}))[0].successful
    assert node.get_parameter(name).value == before


# -- configure refuses -------------------------------------------------------------------------

@pytest.mark.parametrize(('values', 'told'), [
    ({'policy': '/nowhere'}, r'/nowhere is no bundle: it has no policy.json'),
    ({'policy': '<truncated>'}, r'weights.safetensors has \d+ bytes instead of \d+'),
    ({'policy': '<no graph>'}, r'denoiser.onnx is missing'),
    ({'engine': 'abacus'}, r"unknown engine 'abacus'; use auto"),
    ({'deadline': 0.2}, r'deadline 0.2 s is longer than the control period'),
    ({'observation_timeout': 0.01}, r'deadline 0.05 s must be below observation_timeout'),
    ({'min_steps': 9, 'max_steps': 9}, r'this policy serves \[1, 2, 4, 8\]'),
    ({'n_action_steps': 100}, r'n_action_steps 100 is more than'),
    ({'action_fields': ['a']}, r'action_fields .* must be 2 distinct names'),
    ({'action_type': 'twist_stamped'}, r"'y' does not fit this action_type; .* linear.x"),
    ({'limits.x.max_velocity': -1.0}, r'limits.x.max_velocity must be above zero'),
    ({'cameras.front.transport': 'h264'}, r'use one of raw, compressed'),
    ({'control_rate': 1000.0, 'deadline': 0.0005},
     r'a plan of 1 steps takes [\d.]+ ms \(p99\) on this machine, more than the deadline of 0.5'),
])
def test_configure_fails_with_one_line_that_names_the_cure(
        robot, make_node, bundle, tmp_path, capfd, values, told):
    spoiled = tmp_path / 'spoiled'
    shutil.copytree(bundle.folder, spoiled)
    if values.get('policy') == '<truncated>':
        with (spoiled / 'weights.safetensors').open('r+b') as file:
            file.truncate(100)
        values = {'policy': str(spoiled)}
    if values.get('policy') == '<no graph>':
        (spoiled / 'denoiser.onnx').unlink()
        values = {'policy': str(spoiled)}
    make_node(enable_output=True, **values)
    assert not robot.transit(CONFIGURE)
    assert robot.state() == 'unconfigured'
    lines = errors(capfd.readouterr())
    assert len(lines) == 1 and re.search(f'cannot configure: .*{told}', lines[0]), lines
    assert not robot.actions and not robot.shadows


def test_a_deadline_that_no_plan_meets_is_refused_with_the_figures_at_activation(
        robot, make_node, capfd):
    node = make_node()
    assert robot.transit(CONFIGURE)
    assert node.set_parameters(overrides({'deadline': 0.0005}))[0].successful
    assert not robot.transit(ACTIVATE) and robot.state() == 'inactive'
    line, = errors(capfd.readouterr())
    assert re.search(r'cannot activate: a plan of 1 steps takes [\d.]+ ms \(p99\)', line)
    assert node.set_parameters(overrides({'deadline': 0.05}))[0].successful
    assert robot.transit(ACTIVATE)
    robot.start()
    robot.until(lambda: any(tick.rung in FRESH for tick in robot.ticks), 'a fresh plan')


def test_a_node_that_could_not_be_configured_can_be_once_the_cause_is_gone(
        robot, make_node, bundle, tmp_path):
    folder = tmp_path / 'later'
    make_node(policy=str(folder))
    assert not robot.transit(CONFIGURE)
    shutil.copytree(bundle.folder, folder)
    assert robot.transit(CONFIGURE) and robot.transit(ACTIVATE)
    assert robot.transit(DEACTIVATE) and robot.transit(CLEANUP) and robot.transit(CONFIGURE)


# -- bad messages ------------------------------------------------------------------------------

def wrong_encoding(msg):
    msg.encoding = '16UC1'


def too_small(msg):
    msg.height, msg.data = 20, msg.data[:20 * msg.step]


def too_short(msg):
    msg.data = msg.data[:-1]


def from_the_future(msg):
    msg.header.stamp.sec += 60


def missing_joint(msg):
    msg.name = ['grip', 'y', 'elbow']


def not_finite(msg):
    msg.position[2] = math.nan


@pytest.mark.parametrize(('stream', 'fault', 'source', 'told'), [
    ('front', wrong_encoding, 'camera front', "encoding '16UC1' is not accepted; use one of rgb8"),
    ('front', too_small, 'camera front', '57x20 image is smaller than the 57x45'),
    ('front', too_short, 'camera front', 'needs 7695 bytes, found 7694'),
    ('front', from_the_future, 'camera front', 'stamp lies in the future; synchronise the clocks'),
    ('joints', missing_joint, 'joint_states', 'joint x is missing .* it holds grip, y, elbow'),
    ('joints', not_finite, 'joint_states', 'x is not finite; check the driver'),
])
def test_a_bad_message_is_dropped_counted_and_told_once(
        robot, make_node, capfd, stream, fault, source, told):
    robot.faults[stream] = fault
    node = drive(robot, make_node, enable_output=True)
    robot.until(lambda: node._runner._inputs.dropped[source] >= 5, 'dropped messages')
    robot.more(robot.ticks, 3)
    assert not robot.actions and {tick.rung for tick in robot.ticks} == {Rung.STOP}
    warnings = [line for line in capfd.readouterr().err.splitlines() if f'{source}: ' in line]
    assert len(warnings) == 1 and '[WARN]' in warnings[0] and re.search(told, warnings[0])
    robot.faults.clear()
    robot.more(robot.actions, 3)


def test_a_camera_that_never_comes_stops_the_policy_and_is_named(robot, make_node):
    robot.faults['silent'] = 'wrist'
    drive(robot, make_node, enable_output=True)
    robot.more(robot.ticks, 10)
    assert not robot.actions and {tick.rung for tick in robot.ticks} == {Rung.STOP}
    assert 'no image from camera wrist yet' in robot.status('loop').message
    assert robot.status('camera wrist').message == 'no message'


def test_a_camera_that_falls_silent_goes_down_the_ladder(robot, make_node):
    drive(robot, make_node, enable_output=True, observation_timeout=0.2, action_timeout=1.5)
    robot.until(lambda: any(t.rung in FRESH for t in robot.ticks), 'a fresh plan')
    robot.faults['silent'] = 'wrist'
    robot.until(lambda: robot.ticks[-1].rung == Rung.STOP, 'the end of the ladder')
    rungs = [t.rung for t in robot.ticks]
    last = max(i for i, rung in enumerate(rungs) if rung in FRESH)
    assert rungs[last:] == sorted(rungs[last:]) and Rung.HOLD in rungs[last:]
    robot.until(lambda: is_hold(robot.actions[-1], robot), 'the hold')
    robot.faults.clear()
    robot.until(lambda: robot.ticks[-1].rung in FRESH, 'a fresh plan')


def test_compressed_images_are_planned_from(robot, make_node):
    node = drive(robot, make_node, **{'cameras.front.transport': 'compressed'})
    robot.until(lambda: any(t.rung in FRESH for t in robot.ticks), 'a fresh plan')
    assert node.count_subscribers('/camera/front/image_raw') == 0
    assert node.count_subscribers('/camera/front/image_raw/compressed') == 1


def test_limits_bound_what_is_published_from_the_measured_state_on(robot, make_node, bundle):
    drive(robot, make_node, enable_output=True, **{'limits.x.max_velocity': 0.1})
    robot.more(robot.actions, 5)
    told = {v.key: v.value for v in robot.status('loop').values}
    assert int(told['limits.clipped']) > 0 and 0 < float(told['limits.clip_ratio']) <= 1
    x = np.array([[p.positions[1] for p in msg.points][:3] for msg in robot.actions if
                  len(msg.points) >= 3])
    reach = 0.1 / bundle.spec.rate + 1e-9
    assert (np.abs(x[:, 0] - robot.position[2]) <= reach).all()
    assert (np.abs(np.diff(x, axis=1)) <= reach).all()


def test_limits_of_acceleration_bound_how_the_published_velocity_changes(
        robot, make_node, bundle):
    drive(robot, make_node, enable_output=True, **{'limits.x.max_acceleration': 0.5})
    robot.more(robot.actions, 5)
    for msg in robot.actions:
        x = [robot.position[2], *(p.positions[1] for p in msg.points)]
        # a robot that does not move along is at rest, so each message begins there
        velocity = np.diff(x, prepend=x[0]) * bundle.spec.rate
        assert (np.abs(np.diff(velocity)) <= 0.5 / bundle.spec.rate + 1e-6).all()


def test_a_robot_that_is_out_of_its_limits_is_told_of_by_name(robot, make_node, capfd):
    driven = drive(robot, make_node, enable_output=True, **{'limits.x.max_velocity': 0.01})
    robot.more(robot.actions, 3)
    robot.position[2] = 1000.0
    robot.until(lambda: driven._runner.loop.hands.clips.outside > 0, 'an action that is dropped')
    for _ in range(2):
        robot.status('loop')
    assert 'limits: x measured so far out of limits' in capfd.readouterr().err
    assert {tick.rung for tick in robot.ticks[-2:]} == {Rung.STOP}


# -- simulated time ----------------------------------------------------------------------------

def test_simulated_time_drives_the_ticks_and_may_jump_back(robot, make_node):
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    clock = robot.create_publisher(Clock, '/clock', 10)
    make_node(use_sim_time=True, observation_timeout=0.4)
    assert robot.transit(CONFIGURE) and robot.transit(ACTIVATE)

    def play(start, condition):
        now = int(start * 1e9)

        def step():
            nonlocal now
            now += 10_000_000
            stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
            clock.publish(Clock(clock=stamp))
            if now % 50_000_000 == 0:
                robot.publish_once(stamp)
            return condition()

        robot.until(step, 'simulated time')

    def fresh():
        return bool(robot.ticks) and robot.ticks[-1].rung in FRESH

    play(1000, fresh)
    assert len(robot.ticks) < 200, 'the first /clock is no stall'
    robot.ticks.clear()
    play(10, fresh)
    assert all(abs(t.observation_age_s) < 1 for t in robot.ticks if t.rung in FRESH)


# -- processes ---------------------------------------------------------------------------------

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_node_holds_and_exits_clean(robot, bundle, tmp_path, number):
    process = Process('policy_node', tmp_path / 'log', policy=bundle.folder, enable_output='true',
                      **QUICK)
    try:
        robot.start()
        assert robot.transit(CONFIGURE) and robot.transit(ACTIVATE)
        robot.more(robot.actions, 3)
        process.signal(number)
        assert process.wait() == 0, process.lines()
        robot.until(lambda: is_hold(robot.actions[-1], robot), 'the hold')
        assert 'Traceback' not in process.log.read_text()
    finally:
        process.kill()


LAUNCHER = """
import subprocess, sys
node = subprocess.Popen(sys.argv[2:])
open(sys.argv[1], 'w').write(str(node.pid))
node.wait()
"""


def test_a_node_whose_launch_was_killed_holds_and_exits(robot, bundle, tmp_path):
    pid, words = tmp_path / 'pid', [
        word for name, value in {'policy': bundle.folder, 'enable_output': 'true', **QUICK}.items()
        for word in ('-p', f'{name}:={value}')]
    launch = subprocess.Popen(
        [sys.executable, '-c', LAUNCHER, pid, sys.executable, '-m',
         'diffusion_policy_rt.ros.policy_node', '--ros-args', *words])
    try:
        robot.start()
        assert robot.transit(CONFIGURE) and robot.transit(ACTIVATE)
        robot.more(robot.actions, 3)
        launch.kill()
        launch.wait()
        robot.until(lambda: not running(int(pid.read_text())), 'the end of the node')
        robot.until(lambda: is_hold(robot.actions[-1], robot), 'the hold')
    finally:
        launch.kill()
        if pid.is_file() and running(int(pid.read_text())):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def running(pid):
    """Whether a process lives, and is not dead with nobody to ask for its exit code."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def test_a_transition_that_the_state_does_not_have_does_not_end_the_node(robot, bundle, tmp_path):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    process = Process('policy_node', tmp_path / 'log', policy=bundle.folder, **QUICK)
    try:
        assert robot.state() == 'unconfigured'
        client = robot.create_client(ChangeState, '/policy/change_state')
        robot.until(client.service_is_ready, 'the service')
        client.call_async(ChangeState.Request(transition=Transition(id=ACTIVATE)))
        robot.until(lambda: 'a request was refused' in process.log.read_text(), 'the refusal')
        assert robot.transit(CONFIGURE) and robot.state() == 'inactive'
        process.signal(signal.SIGINT)
        assert process.wait() == 0
    finally:
        process.kill()


@pytest.mark.parametrize(('name', 'value', 'told'), [
    ('deadline', '99.0', 'parameter deadline must lie in 0.0005 .. 10'),
    ('control_rate', '10', 'parameter control_rate must be a double (1.0, not 1)'),
    ('deadline', '[1, x]', 'failed to initialize rcl')])
def test_a_parameter_that_does_not_fit_ends_the_process_with_one_line(tmp_path, name, value, told):
    process = Process('policy_node', tmp_path / 'log', **{name: value})
    try:
        assert process.wait() == 1
        lines = [line for line in process.lines() if '[rcl]' not in line]  # those are ROS's own
        assert len(lines) == 1 and told in lines[0]
    finally:
        process.kill()


# -- rivals ------------------------------------------------------------------------------------

def test_a_node_does_not_drive_where_another_one_publishes_actions(robot, make_node, capfd):
    from trajectory_msgs.msg import JointTrajectory

    node = make_node(enable_output=True)
    rival = robot.create_publisher(JointTrajectory, '/policy/action', 1)
    assert robot.transit(CONFIGURE)
    robot.until(lambda: node.count_publishers('/policy/action') == 2, 'the rival')
    assert not robot.transit(ACTIVATE) and robot.state() == 'inactive'
    assert ' publishes on /policy/action too; shut it down' in errors(capfd.readouterr())[0]
    robot.destroy_publisher(rival)
    robot.until(lambda: node.count_publishers('/policy/action') == 1, 'no rival')
    robot.start()
    assert robot.transit(ACTIVATE)
    robot.until(lambda: robot.ticks and robot.ticks[-1].rung in FRESH, 'a fresh plan')
    robot.more(robot.actions, 3)


def test_a_dry_run_beside_a_driving_node_is_not_opened(robot, make_node):
    from trajectory_msgs.msg import JointTrajectory

    node = drive(robot, make_node)
    robot.create_publisher(JointTrajectory, '/policy/action', 1)
    robot.until(lambda: node.count_publishers('/policy/action') == 2, 'the rival')
    robot.more(robot.shadows, 3)
    result = node.set_parameters(overrides({'enable_output': True}))[0]
    assert not result.successful and 'publishes on /policy/action too' in result.reason
    assert node.get_parameter('enable_output').value is False


def test_a_destroyed_node_leaves_the_graph_while_something_still_refers_to_it(robot):
    from diffusion_policy_rt.ros.policy_node import PolicyNode
    node = PolicyNode(context=robot.context)
    mine = '/policy/change_state'
    robot.until(lambda: mine in dict(robot.get_service_names_and_types()), 'the node')
    node.destroy_node()
    assert 'policy' not in robot.get_node_names()
    assert mine not in dict(robot.get_service_names_and_types())
