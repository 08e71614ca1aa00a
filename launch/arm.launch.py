"""The simulated arm: seven joints, a gripper of its own controller, two cameras of two rates."""

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from diffusion_policy_rt.share import find


def generate_launch_description():
    """Return the launch description; demo.launch.py declares the other arguments."""
    return LaunchDescription([IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(find('launch/demo.launch.py'))),
        launch_arguments={'robot': 'arm'}.items())])
