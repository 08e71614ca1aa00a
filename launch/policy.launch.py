"""Start the policy node and, with autostart, walk it to active."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from diffusion_policy_rt.share import find

ARGUMENTS = {
    'policy': ('', 'Folder of the bundle; empty for the shipped Push-T policy.'),
    'params_file': (str(find('config/policy.yaml')), 'YAML file with the tuning.'),
    'namespace': ('', 'Namespace of the node.'),
    'use_sim_time': ('false', 'Follow /clock, as with ros2 bag play --clock.'),
    'autostart': ('true', 'Configure and activate the node.'),
    'enable_output': ('', 'true moves the robot, false is a dry run; empty leaves it to '
                          'params_file.'),
    'action_topic': ('', 'Topic of the actions, such as that of a controller.'),
    'gripper_topic': ('', 'Topic of the gripper\'s own actions, where it has some.'),
    'state_topic': ('', 'Topic of the robot\'s state; empty for joint_states.'),
    'log_level': ('info', 'debug, info, warn or error.'),
}
"""Facts of a deployment; tuning stays in params_file."""


REMAPPED = {'action_topic': '~/action', 'gripper_topic': '~/gripper_action',
            'state_topic': 'joint_states'}


def is_true(value):
    """Return whether a launch argument says yes."""
    return value.lower() in ('true', '1', 'yes')


def change_state(node, transition):
    """Return the action that asks the node for a transition."""
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node),
                                       transition_id=transition))


def autostart(node):
    """Return what configures the node once it runs and activates it once it is configured."""
    return [
        RegisterEventHandler(OnProcessStart(
            target_action=node,
            on_start=[change_state(node, Transition.TRANSITION_CONFIGURE)])),
        RegisterEventHandler(OnStateTransition(
            target_lifecycle_node=node, start_state='configuring', goal_state='inactive',
            entities=[change_state(node, Transition.TRANSITION_ACTIVATE)])),
    ]


def setup(context):
    """Resolve the arguments and make the node."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    parameters = {'use_sim_time': is_true(given['use_sim_time'])}
    if given['policy']:
        parameters['policy'] = given['policy']
    if given['enable_output']:
        parameters['enable_output'] = is_true(given['enable_output'])
    node = LifecycleNode(
        package='diffusion_policy_rt', executable='policy_node', name='policy',
        namespace=given['namespace'], output='screen',
        parameters=[given['params_file'], parameters],
        remappings=[(own, given[name]) for name, own in REMAPPED.items() if given[name]],
        arguments=['--ros-args', '--log-level', given['log_level']])
    # the handlers come first, so that no event of the node escapes them
    return [*(autostart(node) if is_true(given['autostart']) else []), node]


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        OpaqueFunction(function=setup)])
