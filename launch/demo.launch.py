"""The demo: a policy drives a simulated robot, as two nodes in real time."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from diffusion_policy_rt.share import find

POLICIES = {'pusht': '', 'arm': 'arm'}
"""The shipped policy of each simulated robot."""
ARGUMENTS = {
    'robot': ('pusht', 'The simulated robot: pusht or arm.'),
    'policy': ('', 'Folder of the bundle; empty for the shipped policy of the robot.'),
    'params_file': ('', 'YAML file with the tuning of both nodes; empty for the robot\'s own.'),
    'seed': ('100000', 'Seed of the first episode.'),
    'episodes': ('0', 'Episodes to run; 0 for no end.'),
    'log_level': ('info', 'debug, info, warn or error.'),
}


def setup(context):
    """Resolve the arguments and make the two nodes."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    robot = given['robot']
    if robot not in POLICIES:
        raise ValueError(f'robot:={robot}: use one of {", ".join(POLICIES)}')
    tuning = given['params_file'] or str(find(f'config/{robot}.yaml'))
    return [
        Node(package='diffusion_policy_rt', executable=f'{robot}_node', name=robot,
             output='screen',
             parameters=[tuning, {name: int(given[name]) for name in ('seed', 'episodes')}],
             arguments=['--ros-args', '--log-level', given['log_level']]),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(find('launch/policy.launch.py'))),
            launch_arguments={'policy': given['policy'] or POLICIES[robot], 'params_file': tuning,
                              'log_level': given['log_level']}.items())]


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        OpaqueFunction(function=setup)])
