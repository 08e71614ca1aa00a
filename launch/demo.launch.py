"""The demo: the policy drives a simulated robot, as two nodes in real time."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from diffusion_policy_rt.share import find

CONFIG = str(find('config/pusht.yaml'))
ARGUMENTS = {
    'policy': ('', 'Folder of the bundle; empty for the shipped Push-T policy.'),
    'params_file': (CONFIG, 'YAML file with the tuning of both nodes.'),
    'seed': ('100000', 'Seed of the first episode.'),
    'episodes': ('0', 'Episodes to run; 0 for no end.'),
    'log_level': ('info', 'debug, info, warn or error.'),
}


def generate_launch_description():
    """Return the launch description."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    robot = Node(
        package='diffusion_policy_rt', executable='pusht_node', name='pusht', output='screen',
        parameters=[given['params_file'],
                    {name: ParameterValue(given[name], value_type=int)
                     for name in ('seed', 'episodes')}],
        arguments=['--ros-args', '--log-level', given['log_level']])
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(find('launch/policy.launch.py'))),
        launch_arguments={name: given[name]
                          for name in ('policy', 'params_file', 'log_level')}.items())
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        robot, policy])
