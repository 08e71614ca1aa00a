"""Play a bag into the real node, in the bag's own time, and record what it answers."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, IncludeLaunchDescription
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from diffusion_policy_rt.share import find

ARGUMENTS = {
    'bag': (None, 'The bag to play: a folder or a file, of ROS 2 or ROS 1.'),
    'rate': ('1.0', 'Seconds of the bag per second.'),
    'record': ('', 'Folder of the bag in which the answers are recorded; empty for none.'),
    'policy': ('', 'Folder of the bundle; empty for the shipped Push-T policy.'),
    'params_file': (str(find('config/policy.yaml')), 'YAML file with the tuning.'),
    'log_level': ('info', 'debug, info, warn or error.'),
}


def generate_launch_description():
    """Return the launch description."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    player = Node(
        package='diffusion_policy_rt', executable='bag_player', output='screen',
        parameters=[{name: ParameterValue(given[name], value_type=kind)
                     for name, kind in (('bag', str), ('rate', float), ('record', str))}],
        arguments=['--ros-args', '--log-level', given['log_level']],
        on_exit=[EmitEvent(event=Shutdown(reason='the bag was played'))])
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(find('launch/policy.launch.py'))),
        launch_arguments={
            **{name: given[name] for name in ('policy', 'params_file', 'log_level')},
            'use_sim_time': 'true'}.items())
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        player, policy])
