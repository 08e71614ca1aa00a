"""What all tests share: a hypothesis profile that repeats itself, and exported tiny policies."""

import pytest
from fakes import MODELS, stirred, tiny_spec
from hypothesis import settings

settings.register_profile('dprt', derandomize=True, deadline=None, max_examples=50)
settings.load_profile('dprt')


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """Return a function (model, kind) -> (bundle, policy), exported once per session."""
    torch = pytest.importorskip('torch', reason='exporting needs torch')
    from diffusion_policy_rt.model.policy import Policy
    from diffusion_policy_rt.train.export import export_bundle

    torch.set_num_threads(1)
    folder, made = tmp_path_factory.mktemp('bundles'), {}

    def get(model, kind):
        if (model, kind) not in made:
            torch.manual_seed(0)
            spec = tiny_spec(cameras=('front', 'wrist'), kind=kind, steps=(1, 2, 4, 8),
                             size=(45, 57), crop=(41, 50))
            policy = Policy(spec, MODELS[model])
            if model == 'dit':  # a fresh one gives nothing
                stirred(policy.denoiser)
            bundle = export_bundle(policy, MODELS[model], folder / f'{model}_{kind}', {})
            made[model, kind] = bundle, policy
        return made[model, kind]

    return get


@pytest.fixture(scope='session')
def bundle(exported):
    """Return a tiny bundle of two cameras."""
    return exported('keypoint_mlp', 'edm')[0]


@pytest.fixture
def robot(context):
    """Return a robot to talk to the policy node."""
    from ros_rig import Robot
    made = Robot(context=context)
    yield made
    made.close()


@pytest.fixture
def make_node(context, bundle):
    """Return a function that makes a policy node, spinning in a thread of its own."""
    from ros_rig import QUICK, Spinning, overrides

    from diffusion_policy_rt.ros.policy_node import PolicyNode
    made = []

    def make(**values):
        given = {'policy': str(bundle.folder), **QUICK, **values}
        made.append(Spinning(PolicyNode(context=context, parameter_overrides=overrides(given))))
        return made[-1].node

    yield make
    for spinning in made:
        spinning.close()


@pytest.fixture(scope='module')
def context():
    """Return a ROS context of the module's own."""
    rclpy = pytest.importorskip('rclpy', reason='nodes need ROS 2')
    made = rclpy.Context()
    rclpy.init(context=made)
    yield made
    rclpy.try_shutdown(context=made)
