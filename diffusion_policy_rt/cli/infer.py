"""`dprt infer`: one plan from files, for checking against other code."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np

from diffusion_policy_rt.cli.common import add_policy, write_json
from diffusion_policy_rt.errors import DataError, FrameError
from diffusion_policy_rt.files import whole_file

HELP = 'Make one plan from files: observation and noise in, chunk out.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser)
    parser.add_argument('--observation', required=True, metavar='O.npz',
                        help='one array per camera by name, uint8 [n_obs, H, W, 3] RGB, and '
                             '`state` float32 [n_obs, S] in units; oldest first')
    parser.add_argument('--noise', required=True, metavar='N.npy',
                        help='float32 [horizon, A], standard normal')
    parser.add_argument('--out', required=True, metavar='C.npy',
                        help='where to write float32 [horizon, A], actions in units')


def run(args: argparse.Namespace) -> None:
    """Plan once and write the chunk."""
    from diffusion_policy_rt.engines.bundle import read_bundle
    from diffusion_policy_rt.engines.load import load_engine
    from diffusion_policy_rt.replay.evaluate import default_steps
    from diffusion_policy_rt.replay.infer import infer

    bundle = read_bundle(args.policy)
    steps = args.steps or default_steps(bundle.spec.steps)
    observation, noise = load(args.observation), load(args.noise)
    if not isinstance(observation, dict) or isinstance(noise, dict):
        raise DataError('--observation takes an .npz file and --noise an .npy file')
    try:
        chunk = infer(bundle.spec, load_engine(bundle, args.engine, args.threads), observation,
                      noise, steps, args.seed)
    except FrameError as error:
        raise DataError(f'{args.observation}: {error}') from error
    save(Path(args.out), chunk)
    print(f'{args.out}: {list(chunk.shape)} in {", ".join(bundle.spec.action.units)}, '
          f'{steps} steps')
    write_json(args.json, {'steps': steps, 'chunk': chunk.tolist()})


def load(path: str) -> np.ndarray | dict[str, np.ndarray]:
    """Read an .npy or .npz file of plain arrays; DataError where it is neither."""
    try:
        data = np.load(path, allow_pickle=False)
        return {key: data[key] for key in data} if hasattr(data, 'files') else data
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f'cannot read {path}: {error}') from error


def save(path: Path, array: np.ndarray) -> None:
    """Write an .npy file whole or not at all."""
    with whole_file(path, DataError) as partial, partial.open('wb') as file:
        np.save(file, array)
