"""`dprt import`: a policy that was trained with other code, made a bundle."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from diffusion_policy_rt.cli.common import extra, names, positive, provenance, write_json
from diffusion_policy_rt.errors import DprtError

HELP = 'Make a bundle of a policy trained with LeRobot or the original Diffusion Policy.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('source', metavar='SRC',
                        help='folder with config.json and model.safetensors of a LeRobot '
                             'diffusion policy, its name on the hub, or a .ckpt file of the '
                             'original Diffusion Policy')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='the bundle to write')
    parser.add_argument('--rate', type=hertz, metavar='HZ',
                        help='actions per second in training (default: what --data says)')
    parser.add_argument('--data', metavar='DIR',
                        help='the LeRobot data that it was trained on: tells rate, names, and '
                             'the statistics that the checkpoint lacks')
    for what in ('state', 'action'):
        parser.add_argument(f'--{what}', type=names, default=[], metavar='NAME,...',
                            help=f'names of the {what}\'s values, as the robot has them '
                                 f'(default: those of --data, or {what}_0, ...)')
    parser.add_argument('--unit', default='', metavar='U',
                        help='unit of states and actions, for display')
    parser.add_argument('--camera', type=pair, action='append', default=[], metavar='NAME=KEY',
                        help='name a camera of the source; may be repeated (default: the last '
                             'part of its key)')
    parser.add_argument('--steps', type=positive, action='append', default=[], metavar='K',
                        help='serve K network calls per plan (DDIM) beside the source\'s own '
                             'number; may be repeated (default 1, 2, 4, 8 and 10)')


def hertz(text: str) -> float:
    """Parse a rate."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{value} is no rate')
    return value


def pair(text: str) -> tuple[str, str]:
    """Parse NAME=KEY."""
    name, equals, key = text.partition('=')
    if not equals:
        raise argparse.ArgumentTypeError(f'{text!r} is no NAME=KEY')
    return name, key


def cameras(given: list[tuple[str, str]]) -> dict[str, str]:
    """Return the source's key by our name; DprtError where a name or a key stands twice."""
    for each in zip(*given):
        twice = [word for word in each if each.count(word) > 1]
        if twice:
            raise DprtError(f'--camera names {twice[0]} twice; each needs a name of its own')
    return dict(given)


def run(args: argparse.Namespace) -> None:
    """Import, and check the outputs."""
    with extra('importing', 'train'):
        from diffusion_policy_rt.train.importing.assemble import Robot, write
        from diffusion_policy_rt.train.importing.data import learn
        from diffusion_policy_rt.train.importing.find import read_source

    known = learn(args.data) if args.data else None
    rate = args.rate or (known.rate if known else None)
    if not rate:
        raise DprtError('the checkpoint does not say how many actions it gives per second; give '
                        '--rate HZ')
    source = read_source(args.source, known.statistics if known else None)
    robot = Robot(rate, args.state or (known.names('state', source) if known else ()),
                  args.action or (known.names('action', source) if known else ()), args.unit,
                  cameras(args.camera), args.steps or Robot.steps)
    made = write(source, robot, Path(args.out), provenance())
    size = sum(entry['bytes'] for entry in made.files.values())
    print(f'{made.folder}: {size / 1e6:.1f} MB, {", ".join(map(str, made.spec.steps))} steps, '
          f'statistics of the {source.statistics}; next: dprt info {made.folder}')
    write_json(args.json, {'bundle': str(made.folder), 'sha256': made.digest, 'bytes': size,
                           'source': source.title, 'statistics': source.statistics,
                           'source_steps': source.sampling.steps})
