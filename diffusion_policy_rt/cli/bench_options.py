"""The arguments of `dprt bench`, and which of them apply to what is measured."""

from __future__ import annotations

import argparse
import os

from diffusion_policy_rt.cli.common import natural, positive
from diffusion_policy_rt.cli.eval import FIRST_TEST_SEED
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.runtime.warm import ONE_CALL, WARM_NOISE

PARTS = ('denoiser', 'encoder', 'plan')
CONVOLUTIONS = 'fp32-convolutions'
DTYPES = ('fp32', CONVOLUTIONS, 'int8-dynamic', 'int8-weight-only', 'int8-static')
KINDS = {'parts': '--what denoiser, encoder or plan', 'base': '--size base',
         'fused': '--what fused', 'cache': '--what cache',
         'sequences': '--what cache --sequences N', 'episodes': '--what cache --episodes N',
         'node': '--what node', 'replay': '--what replay'}
"""Kinds of measurements, and what asks for each."""
APPLIES = {
    'bag': ('replay',), 'seconds': ('node',), 'size': ('parts', 'fused'),
    'sequences': ('sequences',), 'episodes': ('episodes',),
    **dict.fromkeys(('dtype', 'denoiser', 'params', 'cameras', 'horizon'), ('base',)),
    **dict.fromkeys(('seed', 'noise', 'cache', 'level', 'warm_noise', 'workers'), ('episodes',)),
    'image': ('base', 'cache'), 'plot': ('parts', 'cache'),
    'repeats': ('parts', 'fused', 'cache', 'replay'),
    'threads': ('parts', 'fused', 'cache', 'episodes'),
    'steps': ('parts', 'fused', 'cache', 'episodes', 'node', 'replay'),
    'engine': ('parts', 'cache', 'sequences', 'episodes', 'node', 'replay')}
"""The kinds to which an option applies."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--what', choices=(*PARTS, 'fused', 'cache', 'node', 'replay'),
                        help='what to measure (default: denoiser, encoder and plan); fused: all '
                             'steps as one graph, against one call per step; replay: of --bag, '
                             'against the loop within it')
    parser.add_argument('--bag', metavar='BAG', help='replay: the bag')
    parser.add_argument('--policy', action='append', metavar='P',
                        help='bundle folder, or the name of a shipped bundle; may be repeated '
                             '(default pusht)')
    parser.add_argument('--size', choices=('small', 'base'), default='small',
                        help='base: the published 251-million-parameter network with random '
                             'weights, in place of --policy (needs torch)')
    parser.add_argument('--dtype', action='append', choices=DTYPES,
                        help='base: how its denoiser is stored; may be repeated (default: fp32 '
                             'and int8-dynamic); encoders are static int8 beside int8; '
                             f'{CONVOLUTIONS}: the graph is not rewritten as products')
    parser.add_argument('--denoiser', choices=('unet', 'transformer', 'dit'), default='unet',
                        help='base: the kind of its denoiser (default unet)')
    parser.add_argument('--params', action='append', metavar='N',
                        help='base: parameters of a transformer or dit; may be repeated '
                             '(default 250M)')
    parser.add_argument('--cameras', type=positive, action='append', metavar='N',
                        help='base: number of cameras; may be repeated (default 1)')
    parser.add_argument('--image', type=positive, action='append', metavar='PX',
                        help='base: rows and columns of an image; may be repeated (default 96); '
                             'cache: the policy\'s networks on images of this size (default: its '
                             'own)')
    parser.add_argument('--horizon', type=positive, action='append', metavar='H',
                        help='base: actions in a chunk, a multiple of 4; may be repeated '
                             '(default 16)')
    parser.add_argument('--engine', action='append', metavar='E',
                        help='engine to measure, or torch-compile; may be repeated (default: all '
                             'installed)')
    parser.add_argument('--steps', type=positive, action='append', metavar='K',
                        help='network calls per plan; may be repeated (default: 1, 2, 4, 8); '
                             'counts that the policy does not serve are sampled by DDIM, 100 and '
                             'more by DDPM')
    parser.add_argument('--threads', type=positive, action='append', metavar='N',
                        help='threads; may be repeated (default: 1)')
    parser.add_argument('--repeats', type=positive, default=200, metavar='R',
                        help='measurements of each row, rows taking turns (default 200)')
    parser.add_argument('--sequences', type=natural, default=0, metavar='N',
                        help='cache: instead of times, hold the exact caches against none over N '
                             'random sequences of late, double, reordered, missing and set-back '
                             'frames; ends non-zero where an action differs')
    parser.add_argument('--episodes', type=natural, default=0, metavar='N',
                        help='cache: instead of times, the score of N closed-loop episodes under '
                             'each cache, and its paired difference to none')
    parser.add_argument('--seed', type=natural, default=FIRST_TEST_SEED, metavar='S',
                        help='--episodes: episode i starts from seed S + i (default '
                             f'{FIRST_TEST_SEED})')
    parser.add_argument('--noise', type=natural, default=0, metavar='LEVELS',
                        help='--episodes: noise of up to this much, of 255, in every pixel that '
                             'the policy sees (default 0)')
    parser.add_argument('--cache', action='append', metavar='C',
                        help='--episodes: a cache to hold against none, by the name that its row '
                             'has; may be repeated (default: all)')
    parser.add_argument('--level', action='append', metavar='L', type=float,
                        help='--episodes: a level of the warm start, in deviations of the data; '
                             f'may be repeated (default: that for one network call, {ONE_CALL:g})')
    parser.add_argument('--warm-noise', metavar='F', type=float, default=WARM_NOISE,
                        help='--episodes: share of that level\'s noise that the last chunk gets '
                             f'(default {WARM_NOISE:g})')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, metavar='W',
                        help='--episodes: processes (default: one per core)')
    parser.add_argument('--plot', metavar='FILE.png',
                        help='draw the rows; cache: frames with the tiles that changed')
    parser.add_argument('--seconds', type=positive, default=20, metavar='S',
                        help='node: how long to measure each image size (default 20)')


def refuse_idle(args: argparse.Namespace) -> None:
    """Raise DprtError for an option that would change nothing of what is measured."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = {kind_of(args)} | ({'base'} if args.size == 'base' else set())
    for option, applies in APPLIES.items():
        if getattr(args, option) != parser.get_default(option) and asked.isdisjoint(applies):
            raise DprtError(f'--{option.replace("_", "-")} does not apply here; it is for '
                            f'{", or ".join(KINDS[kind] for kind in applies)}')
    if 'base' in asked and args.policy:
        raise DprtError('--policy does not apply here: --size base measures random weights')


def kind_of(args: argparse.Namespace) -> str:
    """Return what is measured: one of `KINDS`, but `base`, which goes with another."""
    if args.what == 'cache' and (args.sequences or args.episodes):
        return 'sequences' if args.sequences else 'episodes'
    return args.what if args.what in KINDS else 'parts'
