"""`dprt soak`: many ticks of the policy node, idle, under load, or with everything bent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_seed, natural, pair, positive, provenance, show, write_json)
from diffusion_policy_rt.errors import DprtError

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.soak import Soak

HELP = 'Run the policy node for many ticks against a robot, and tell what was late, lost or wild.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--policy', default='pusht', metavar='P',
                        help='bundle folder, or the name of a shipped bundle (default pusht)')
    parser.add_argument('--engine', default='auto', metavar='E',
                        help='auto, onnxruntime or torch (default auto)')
    parser.add_argument('--ticks', type=positive, metavar='N',
                        help='ticks to run (default 100000; 4000 per row of --table)')
    parser.add_argument('--rate', type=float, default=50.0, metavar='HZ',
                        help='control rate (default 50)')
    parser.add_argument('--deadline', type=float, default=0.01, metavar='S',
                        help='deadline of each tick (default 0.01)')
    parser.add_argument('--camera', default='96x96', metavar='WxH',
                        help='size of the raw images (default 96x96)')
    parser.add_argument('--hz', type=float, default=10.0, metavar='HZ',
                        help='images and states per second (default 10)')
    parser.add_argument('--priority', type=natural, default=0, metavar='P',
                        help='SCHED_FIFO priority of the ticking thread (default 0: none)')
    parser.add_argument('--engine-process', action='store_true',
                        help='run the engine in a process of its own')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                        help='a parameter of the node, such as replan_ticks=1 to plan in every '
                             'tick; may be repeated')
    _add_load(parser)
    _add_kinds(parser)
    add_seed(parser)


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--busy', type=natural, default=0, metavar='N',
                        help='processes that compute without end beside it (default 0)')
    parser.add_argument('--memory', type=natural, default=0, metavar='MIB',
                        help='memory that a process beside it writes over and over (default 0)')
    parser.add_argument('--record', metavar='DIR',
                        help='record all topics into this bag meanwhile')


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument('--fuzz', action='store_true',
                       help='bend messages, parameters and requests at random, and demand that '
                            'the node neither ends, hangs nor does anything wild')
    kinds.add_argument('--faults', action='store_true',
                       help='instead: put faults into streams and engine of a running node, one '
                            'by one, and tell what was counted, which rungs answered, and after '
                            'how many ticks it recovered')
    kinds.add_argument('--table', metavar='FILE',
                       help='instead: soak idle and under each load, one after the other, and '
                            'write a table of it in Markdown')


def run(args: argparse.Namespace) -> None:
    """Soak, print the figures, and end with what may not be."""
    from diffusion_policy_rt.cli.demo import use_own_domain
    from diffusion_policy_rt.share import use_large_image_profile
    use_own_domain()
    use_large_image_profile()
    try:
        soak = make_soak(args)
    except ImportError as error:
        raise DprtError('soak needs ROS 2: source an installation, or pip install '
                        '"diffusion_policy_rt[ros]"') from error
    if args.faults:
        _faults(args, soak)
    elif args.table:
        _table(args, soak)
    else:
        _soak(args, soak)


def make_soak(args: argparse.Namespace) -> Soak:
    """Return what was asked for; DprtError names what is wrong with it."""
    from diffusion_policy_rt.replay.soak import Load, Soak
    try:
        width, height = map(int, args.camera.split('x'))
    except ValueError as error:
        raise DprtError(f'--camera {args.camera}: give columns and rows, such as 640x480'
                        ) from error
    load = Load(args.busy, args.memory << 20, Path(args.record) if args.record else None)
    asked = {'realtime.priority': args.priority, 'engine_process': args.engine_process}
    parameters = {name: value for name, value in asked.items() if value}
    return Soak(args.policy, args.engine, args.ticks or 100_000, args.rate, args.deadline, width,
                height, args.hz, load, args.fuzz, args.seed,
                {**parameters, **dict(map(pair, args.set))})


def _soak(args: argparse.Namespace, soak: Soak) -> None:
    from diffusion_policy_rt.replay.soak_figures import verdict
    row = soak.run()
    write_json(args.json, {**row, 'provenance': provenance()})
    print('\n'.join(f'{name}: {_text(value)}' for name, value in row.items()))
    _end(verdict(row), row['interrupted'])


def _table(args: argparse.Namespace, soak: Soak) -> None:
    from diffusion_policy_rt.replay.soak_table import TICKS, page, run_table, verdict
    rows = run_table(soak, args.ticks or TICKS)
    write_json(args.json, {'rows': rows, 'provenance': provenance()})
    Path(args.table).write_text(page(rows) + '\n')
    print(page(rows))
    _end(verdict(rows), any(row['interrupted'] for row in rows))


def _faults(args: argparse.Namespace, soak: Soak) -> None:
    from diffusion_policy_rt.replay.fault_table import FaultTable, page, verdict
    rows = FaultTable(soak.policy, soak.engine, soak.rate, soak.deadline, soak.width, soak.height,
                      soak.hz, soak.seed, soak.parameters).run()
    write_json(args.json, {'rows': rows, 'provenance': provenance()})
    print(page(rows))
    _end(verdict(rows), False)


def _end(broken: list[str], interrupted: bool) -> None:
    if broken:
        raise DprtError('; '.join(broken))
    if interrupted:
        raise KeyboardInterrupt


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {_text(each)}' for name, each in value.items())
    return show(value)
