"""The simulated arm: its joints, its cameras, and who shows its task."""

import dataclasses
import importlib.util

import numpy as np
import pytest

for package in ('mujoco', 'gymnasium_robotics'):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install "diffusion_policy_rt[arm]"',
                    allow_module_level=True)

from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.replay.episode import RandomController, run_episode  # noqa: E402
from diffusion_policy_rt.sim.arm import Arm  # noqa: E402
from diffusion_policy_rt.sim.arm_expert import Expert  # noqa: E402
from diffusion_policy_rt.sim.arm_scene import CAN, GOAL  # noqa: E402
from diffusion_policy_rt.sim.tasks import ARM  # noqa: E402

LOW, HIGH = np.array(ARM.low), np.array(ARM.high)


@pytest.fixture(scope='module')
def arm():
    return Arm()


@pytest.fixture
def sighted(arm):
    """Return an arm whose cameras can draw here."""
    arm.reset(1)
    try:
        arm.look('front', 96, 96)
    except DprtError as error:
        pytest.skip(str(error))
    return arm


class Shown:
    """The expert as what drives an episode."""

    seams = ()

    def begin(self, seed):
        pass

    def target(self, step, robot):
        return Expert(robot).target()


def bodies(arm):
    return np.concatenate([arm.state, arm.velocity, arm.can])


def test_the_same_seed_and_targets_give_the_same_episode_and_another_seed_another(arm):
    ends = []
    for seed in (3, 3, 4):
        arm.reset(seed)
        for _ in range(5):
            arm.step(arm.state + 0.05)
        ends.append(bodies(arm))
    assert np.array_equal(ends[0], ends[1]) and not np.allclose(ends[0], ends[2])


def test_substeps_add_up_to_a_step(arm):
    ends = []
    for advance in (arm.step, lambda t: [arm.substep(t) for _ in range(ARM.substeps)]):
        arm.reset(5)
        advance(arm.state + 0.1)
        ends.append(bodies(arm))
    assert np.array_equal(*ends)


@pytest.mark.parametrize('joint', range(len(ARM.joints)))
def test_each_joint_goes_where_it_is_told_and_holds_against_gravity(arm, joint):
    arm.reset(6)
    target = arm.state
    target[joint] += -0.02 if joint == 7 else 0.15
    for _ in range(15):
        arm.step(target)
    np.testing.assert_allclose(arm.state, target, atol=2e-3)


def test_no_target_moves_a_joint_beyond_its_limits(arm):
    arm.reset(7)
    for _ in range(30):
        arm.step(np.full(len(ARM.joints), 9.0))
        assert (arm.state < HIGH + 0.02).all() and (arm.state > LOW - 0.02).all()


def test_both_fingers_follow_one_value(arm):
    arm.reset(8)
    target = arm.state
    target[-1] = 0.01
    for _ in range(15):
        arm.step(target)
    other = arm.data.joint('robot:panda0_finger_joint2').qpos[0]
    np.testing.assert_allclose([arm.state[-1], other], 0.01, atol=1e-3)


@pytest.mark.parametrize('seed', range(500_000, 500_005))
def test_the_expert_does_the_task(arm, seed):
    episode = run_episode(Shown(), arm, seed, task=ARM)
    assert episode.success and episode.max_coverage == 1
    assert np.linalg.norm(arm.can[:2] - GOAL) < 0.04 and arm.can[2] < 1.2 * CAN
    assert len(episode.targets) < 60


def test_who_moves_at_random_does_not(arm):
    short = dataclasses.replace(ARM, max_steps=20)
    episode = run_episode(RandomController(ARM), arm, 500_000, task=short)
    assert len(episode.targets) == 20 and not episode.success and episode.max_coverage < 0.5
    drawn = np.array(episode.targets)
    assert (drawn >= LOW).all() and (drawn <= HIGH).all() and np.ptp(drawn, axis=0).min() > 0


def test_progress_grows_with_the_task_and_is_whole_only_when_the_can_is_let_go(arm):
    arm.reset(500_001)
    expert, seen = Expert(arm), []
    while not seen or seen[-1] < 1:
        arm.step(expert.target())
        seen.append(arm.progress())
    held = [p for p in seen if p < 1]
    assert all(type(p) is float for p in seen)  # they are told as JSON
    assert max(held) < ARM.success and seen[0] < 0.25 < 0.5 < max(held)
    assert ARM.score(1.0) == 1 and ARM.score(max(held)) < 1


@pytest.mark.parametrize('camera', ARM.cameras)
def test_the_cameras_see_the_can_where_the_keypoints_say(sighted, camera):
    picture = sighted.look(camera, 192, 192).astype(int)
    red = (picture[..., 0] > 60) & (picture[..., 0] > 3 * picture[..., 1])
    rows, columns = np.nonzero(red)
    seen = np.array([columns.mean(), rows.mean()]) / 192
    np.testing.assert_allclose(seen, sighted.keypoints(camera)[0], atol=0.02)


def test_pictures_have_the_size_asked_for_and_change_with_the_scene(sighted):
    before = sighted.look('wrist', 64, 48)
    sighted.step(sighted.state + 0.2)
    assert before.shape == (48, 64, 3) and before.dtype == np.uint8
    assert np.abs(before.astype(int) - sighted.look('wrist', 64, 48)).max() > 30


def test_demonstrations_tell_what_the_expert_wanted_and_can_be_learnt_from(sighted, tmp_path):
    pytest.importorskip('torch', reason='training needs torch')
    from diffusion_policy_rt.train.distributed import Strategy, join
    from diffusion_policy_rt.train.expert.arm import ArmCollection
    from diffusion_policy_rt.train.expert.collect import write_dataset
    from diffusion_policy_rt.train.recipe import load_recipe
    from diffusion_policy_rt.train.run import Training, open_data

    collector = ArmCollection().collector()
    shown = [collector.episode(seed) for seed in (500_000, 500_000)]
    for name, rows in shown[0].streams().items():
        np.testing.assert_array_equal(rows, shown[1].streams()[name])
    assert all(d.success for d in shown)
    sighted.reset(500_000)
    np.testing.assert_allclose(Expert(sighted).target(), shown[0].action[0], atol=1e-5)
    np.testing.assert_allclose(sighted.state, shown[0].state[0], atol=1e-6)
    write_dataset(tmp_path / 'demonstrations.npz', shown)
    recipe = load_recipe('arm_small')
    training = Training(recipe, open_data(recipe, [tmp_path]), tmp_path / 'run', 0,
                        join(Strategy()))
    assert ARM.serves(training.spec) and len(training.data.streams) == 6
    assert (np.abs(training.spec.state.normalise(training.states)) <= 1 + 1e-6).all()


@pytest.fixture
def unseen(monkeypatch):
    """Let the cameras draw nothing, as only the hand's ways matter."""
    monkeypatch.setattr(Arm, 'look', lambda *_: np.zeros((96, 96, 3), np.uint8))


def test_after_a_slip_the_expert_starts_elsewhere_and_still_does_the_task(unseen):
    pytest.importorskip('torch', reason='the collector reads bundles of policies')
    from diffusion_policy_rt.train.expert.arm import ArmCollection

    fresh, slipped = (ArmCollection(starts=starts).collector() for starts in (
        'published', 'anywhere'))
    begun = [[c.episode(seed) for seed in range(500_000, 500_006)] for c in (fresh, slipped)]
    apart = [np.abs(a.state[0] - b.state[0])[:7].max() for a, b in zip(*begun)]
    shut = [d.state[0, -1] < 0.03 for d in begun[1]]
    assert min(apart) > 0.05 and any(shut) and not all(shut)
    assert all(d.success for d in begun[1])
    again = slipped.episode(500_000)
    np.testing.assert_array_equal(again.action, begun[1][0].action)


def test_a_policy_leads_and_the_expert_takes_over_where_it_is(sighted):
    pytest.importorskip('onnxruntime', reason='the leading policy runs on ONNX Runtime')
    pytest.importorskip('torch', reason='the collector reads bundles of policies')
    from diffusion_policy_rt.train.expert.arm import ArmCollection

    led = ArmCollection(policy='arm').collector().episode(500_000)
    alone = ArmCollection().collector().episode(500_000)
    assert led.success
    assert np.abs(led.state[0] - alone.state[0]).max() > 0.05
    assert ArmCollection(policy='arm').about() != ArmCollection().about()


def test_a_policy_of_another_robot_does_not_lead(tmp_path, capsys):
    pytest.importorskip('torch', reason='the collector reads bundles of policies')
    from diffusion_policy_rt.cli.main import main

    asked = ['--task', 'arm', '--policy', 'pusht', '--episodes', '2', '--out', str(tmp_path)]
    assert main(['expert', *asked, '--workers', '1']) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'no policy of the arm' in said and not list((tmp_path / 'episodes').iterdir())


def test_demonstrations_tell_when_success_was_met_at_the_time_limit_too(
        arm, unseen, monkeypatch, tmp_path):
    pytest.importorskip('torch', reason='choosing by success needs torch')
    from diffusion_policy_rt.train.data import read_dataset
    from diffusion_policy_rt.train.expert import arm as shown
    from diffusion_policy_rt.train.expert.collect import write_dataset
    from diffusion_policy_rt.train.progress import outcomes

    arm.reset(500_000)
    expert, steps = Expert(arm), 0
    while arm.progress() <= ARM.success:
        arm.step(expert.target())
        steps += 1
    late = dataclasses.replace(ARM, max_steps=steps)
    made = [shown.ArmCollection(noise=0.0).collector().episode(500_000)]
    monkeypatch.setattr(shown, 'ARM', late)
    made.append(shown.ArmCollection(noise=0.0).collector().episode(500_000))
    write_dataset(tmp_path / 'demonstrations.npz', made)
    found = outcomes(read_dataset(tmp_path, {'success': ('success',)}))
    assert found.met.all()
    assert found.left.tolist() == 2 * list(range(steps - 1, -4, -1))
