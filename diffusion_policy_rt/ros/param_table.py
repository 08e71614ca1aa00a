"""The parameters of the policy node in one table, from which all else about them follows.

Those that a policy names are in `policy_params`.
"""

from __future__ import annotations

from diffusion_policy_rt.ros.param import Param, stale_params
from diffusion_policy_rt.runtime.caches import LEAST_LEVEL
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.variants import WARM_START
from diffusion_policy_rt.runtime.warm import DISTILLED, ONE_CALL, WARM_NOISE

D = LoopSettings()
SHARE = 'Share of ticks'
TABLE = [
    Param('policy', '',
          'Folder of the bundle, or the name of a shipped one; empty for the shipped Push-T '
          'policy.'),
    Param('engine', 'auto',
          'What runs the networks: auto, or the name of an engine (`dprt info` lists them).'),
    Param('engine_process', False,
          'Run the engine in a process of its own, which is started again when it dies or hangs.'),
    Param('threads', 1, 'CPU threads per network call.', 1, 256),
    Param('seed', 0, 'Seed of the sampling noise.', 0, 2**31 - 1),
    Param('control_rate', D.control_rate, 'Actions published per second [Hz].', 0.1, 1000,
          live=True),
    Param('deadline', D.deadline,
          'Time after a tick\'s scheduled instant by which its action must have left [s].',
          0.0005, 10, live=True),
    Param('min_steps', D.min_steps, 'Fewest network calls per plan.', 1, 1000, live=True),
    Param('max_steps', D.max_steps,
          'Most network calls per plan; as many as fit the deadline are used.', 1, 1000,
          live=True),
    Param('observation_timeout', D.observation_timeout,
          'Age above which an image or a state is not planned from [s].', 0.001, 60, live=True),
    Param('action_timeout', D.action_timeout,
          'Age of its observation above which a planned action is not executed [s].', 0.001, 60,
          live=True),
    Param('max_camera_skew', D.max_camera_skew,
          'Largest difference between the cameras\' newest stamps [s].', 0, 60, live=True),
    Param('n_action_steps', D.n_action_steps,
          'Actions executed from a chunk before the next plan, less those that latency took; 0 '
          'takes the bundle\'s.', 0, 1000, live=True),
    Param('replan_ticks', D.replan_ticks,
          'Ticks from one plan to the next, in the place of n_action_steps; 1 plans in every '
          'tick, also where control_rate is above the policy\'s rate; 0 goes by n_action_steps.',
          0, 1000, live=True),
    Param('seam_limit', D.seam_limit,
          'How far actions may jump where chunks meet, in normalised actions; 0 takes the '
          'bundle\'s stride, and bounds nothing where it tells none.', 0, 1e6, live=True),
    Param('blend_steps', D.blend_steps,
          'Actions over which what a jump between chunks has beyond seam_limit fades; 0 leaves '
          'jumps as they are.', 0, 1000, live=True),
    Param('cache.capacity', 64, 'Encoded frames kept, over all cameras.', 1, 100_000, live=True),
    Param('cache.condition', True,
          'Keep what the denoiser makes of an observation alone, where the bundle has it in '
          'parts; changes no action.', live=True),
    Param('cache.blocks', False,
          'Keep branches of the denoiser between the network calls of a plan, where the bundle '
          'tells which (dprt cache); approximate.', live=True),
    Param('cache.warm_start', 0.0,
          'Noise level, in deviations of the data, to which the last chunk is noised for the next '
          'plan to go on from it; 0 starts from noise alone; for plain policies '
          f'{ONE_CALL:g} suits plans of one step, {WARM_START:g} those of two to four; for '
          f'policies distilled for consistency {DISTILLED:g}; '
          f'it changes actions; above 0 it is {LEAST_LEVEL:g} or more.', 0, 100, live=True),
    Param('cache.warm_noise', WARM_NOISE,
          'Share of that level\'s noise that the last chunk gets; with less, chunks meet more '
          'closely, and with half and less fewer episodes of Push-T succeed.', 0, 1, live=True),
    Param('action_type', 'joint_trajectory', 'Type of the published action.',
          choices=('joint_trajectory', 'float64_multi_array', 'twist_stamped', 'pose_stamped')),
    Param('action_fields', [''],
          'Per action the joint name it is published under, or the part of the message it fills, '
          'such as linear.x; one empty name takes the actions\' own. YAML wants quotes around a '
          'name such as \'y\'.'),
    Param('gripper.actions', [''],
          'Actions that leave on ~/gripper_action instead of ~/action: those of a gripper with a '
          'controller of its own; one empty name for none.'),
    Param('gripper.action_type', 'float64_multi_array', 'Type of the messages on '
          '~/gripper_action.', choices=('joint_trajectory', 'float64_multi_array')),
    *stale_params('state', 'the robot state'),
    Param('frame_id', '', 'frame_id of the published action\'s header.'),
    Param('enable_output', False,
          'Publish on ~/action; false is a dry run on ~/shadow_action.', live=True),
    Param('realtime.priority', 0,
          'SCHED_FIFO priority of the ticking thread; the other threads of the node then have 1, '
          'and an engine that computes for long belongs into a process of its own '
          '(engine_process). 0 leaves the default scheduling. A warning tells what the system '
          'denies.', 0, 99),
    Param('realtime.cpus', '',
          'Cores that the ticking thread may run on, such as 0,2; empty for all.'),
    Param('realtime.lock_memory', False, 'Keep the process\' memory from being swapped out.'),
    Param('diagnostics.window', 10.0, 'Time that the figures on /diagnostics cover [s].', 1, 3600),
    Param('diagnostics.threshold.miss_ratio.warn', 0.01,
          f'{SHARE} that missed the deadline, for WARN.', 0, 1),
    Param('diagnostics.threshold.miss_ratio.error', 0.1,
          f'{SHARE} that missed the deadline, for ERROR.', 0, 1),
    Param('diagnostics.threshold.fallback_ratio.warn', 0.05,
          f'{SHARE} on the rungs HOLD and STOP, for WARN.', 0, 1),
    Param('diagnostics.threshold.fallback_ratio.error', 0.5,
          f'{SHARE} on the rungs HOLD and STOP, for ERROR.', 0, 1),
    Param('diagnostics.threshold.observation_age.warn', 0.2,
          'Largest age of the newest image at a tick, for WARN [s].', 0, 60),
    Param('diagnostics.threshold.observation_age.error', 0.5,
          'Largest age of the newest image at a tick, for ERROR [s].', 0, 60),
]
"""What every policy has; declared when the node starts."""
