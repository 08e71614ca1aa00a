"""`dprt train`: demonstrations in, bundle out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_data, add_run, add_selection, add_strategy, amount, closed_loop, extra, natural,
    provenance, strategy, write_json)

if TYPE_CHECKING:
    from diffusion_policy_rt.train.history import History

HELP = 'Train a policy on demonstrations and write its bundle.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_data(parser, 'npz files, a zarr replay buffer, a LeRobot v2/v3 data set, or a bag')
    parser.add_argument('--recipe', default='pusht_small', metavar='R',
                        help='YAML file, or a name in config/recipes (default pusht_small)')
    parser.add_argument('--epochs', type=natural, default=0, metavar='N',
                        help='passes over the data in the last stage (default: the recipe\'s)')
    parser.add_argument('--max-episodes', type=natural, default=0, metavar='N',
                        help='learn from the first N episodes (default: the recipe\'s)')
    parser.add_argument('--stream', type=amount, default=0.0, metavar='GB',
                        help='read images from their files while training, so that all processes '
                             'together hold at most so many gigabytes of them, the images that '
                             'are read ahead among them (default 0: each process holds all)')
    add_run(parser)
    add_strategy(parser)
    add_selection(parser)


def run(args: argparse.Namespace) -> None:
    """Train, export, draw the curves."""
    with extra('training', 'train'):
        import torch

        from diffusion_policy_rt.train.curves import write_curves
        from diffusion_policy_rt.train.distributed import join
        from diffusion_policy_rt.train.export import export_bundle
        from diffusion_policy_rt.train.recipe import load_recipe
        from diffusion_policy_rt.train.run import Training, open_data

    torch.set_num_threads(args.threads)
    recipe, world, out = load_recipe(
        args.recipe, args.epochs, args.max_episodes), join(strategy(args)), Path(args.out)
    data = open_data(recipe, args.data)
    began, origin = time.monotonic(), provenance()
    training = Training(recipe, data, out, args.seed, world, closed_loop(args),
                        1e9 * args.stream)
    policy = training.run()
    world.leave()
    if not world.leads:
        return
    losses = {stage: {'train': c.train[-1], 'validation': c.validation[-1],
                      'epochs': len(c.train), 'hours': c.seconds / 3600, **chosen(c),
                      **({'images': c.images} if c.images else {})}
              for stage, c in training.curves.items()}
    facts = {
        'training': {'recipe': recipe.source, 'data': data.title,
                     'episodes': len(data.episode_ends), 'rows': len(training.states),
                     'seed': args.seed, 'stages': losses, 'device': str(world.device),
                     'processes': world.size, 'threads': args.threads},
        'quality': {}, 'provenance': origin}
    bundle = export_bundle(policy, training.model, out / 'bundle', facts)
    write_curves(out / 'curves.png', training.curves)
    print(f'{bundle.folder}: trained in {(time.monotonic() - began) / 60:.1f} min; next: '
          f'dprt eval --policy {bundle.folder}')
    write_json(args.json, {'bundle': str(bundle.folder), 'sha256': bundle.digest, **facts})


def chosen(curve: History) -> dict[str, Any]:
    """Return which epoch was kept and what was measured of it, where one was chosen."""
    if not curve.best_epoch:
        return {}
    return {'best_epoch': curve.best_epoch, 'measures': curve.measures[curve.best_epoch - 1]}
