"""`dprt soak`: many ticks of the policy node, idle, under load, or with everything bent."""

from __future__ import annotations

import argparse
from typing import Any

from diffusion_policy_rt.cli.common import (
    add_seed, natural, positive, provenance, show, write_json)
from diffusion_policy_rt.errors import DprtError

HELP = 'Run the policy node for many ticks against a robot, and tell what was late, lost or wild.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--policy', default='pusht', metavar='P',
                        help='bundle folder, or the name of a shipped bundle (default pusht)')
    parser.add_argument('--engine', default='auto', metavar='E',
                        help='auto, onnxruntime or torch (default auto)')
    parser.add_argument('--ticks', type=positive, default=100_000, metavar='N',
                        help='ticks to run (default 100000)')
    parser.add_argument('--rate', type=float, default=50.0, metavar='HZ',
                        help='control rate (default 50)')
    parser.add_argument('--deadline', type=float, default=0.01, metavar='S',
                        help='deadline of each tick (default 0.01)')
    parser.add_argument('--camera', default='96x96', metavar='WxH',
                        help='size of the raw images (default 96x96)')
    parser.add_argument('--hz', type=float, default=10.0, metavar='HZ',
                        help='images and states per second (default 10)')
    parser.add_argument('--busy', type=natural, default=0, metavar='N',
                        help='processes that compute without end beside it (default 0)')
    parser.add_argument('--priority', type=natural, default=0, metavar='P',
                        help='SCHED_FIFO priority of the ticking thread (default 0: none)')
    parser.add_argument('--engine-process', action='store_true',
                        help='run the engine in a process of its own')
    parser.add_argument('--fuzz', action='store_true',
                        help='bend messages, parameters and requests at random, and demand that '
                             'the node neither ends, hangs nor does anything wild')
    parser.add_argument('--faults', action='store_true',
                        help='instead: put faults into streams and engine of a running node, one '
                             'by one, and tell what was counted, which rungs answered, and after '
                             'how many ticks it recovered')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                        help='a parameter of the node, such as replan_ticks=1 to plan in every '
                             'tick; may be repeated')
    add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Soak, print the figures, and end with what may not be."""
    from diffusion_policy_rt.cli.demo import use_own_domain
    from diffusion_policy_rt.share import use_large_image_profile
    try:
        width, height = map(int, args.camera.split('x'))
    except ValueError as error:
        raise DprtError(f'--camera {args.camera}: give columns and rows, such as 640x480'
                        ) from error
    parameters = dict(_parameter(text) for text in args.set)
    use_own_domain()
    use_large_image_profile()
    try:
        from diffusion_policy_rt.replay.soak import Soak, verdict
    except ImportError as error:
        raise DprtError('soak needs ROS 2: source an installation, or pip install '
                        '"diffusion_policy_rt[ros]"') from error
    if args.faults:
        _faults(args, width, height, parameters)
        return
    row = Soak(args.policy, args.engine, args.ticks, args.rate, args.deadline, width, height,
               args.hz, args.busy, args.fuzz, args.seed, args.priority, args.engine_process,
               parameters).run()
    write_json(args.json, {**row, 'provenance': provenance()})
    print('\n'.join(f'{name}: {_text(value)}' for name, value in row.items()))
    broken = verdict(row)
    if broken:
        raise DprtError('; '.join(broken))


def _parameter(text: str) -> tuple[str, str]:
    name, found, value = text.partition('=')
    if not (name and found and value):
        raise DprtError(f'--set {text}: give NAME=VALUE, such as replan_ticks=1')
    return name, value


def _faults(args: argparse.Namespace, width: int, height: int,
            parameters: dict[str, str]) -> None:
    from diffusion_policy_rt.replay.fault_table import FaultTable, page, verdict
    rows = FaultTable(args.policy, args.engine, args.rate, args.deadline, width, height, args.hz,
                      args.seed, parameters).run()
    write_json(args.json, {'rows': rows, 'provenance': provenance()})
    print(page(rows))
    broken = verdict(rows)
    if broken:
        raise DprtError('; '.join(broken))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {show(each)}' for name, each in value.items())
    return show(value)
