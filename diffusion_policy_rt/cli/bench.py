"""`dprt bench`: how long each part takes on this machine."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from diffusion_policy_rt.cli.bench_options import CONVOLUTIONS, PARTS, kind_of, refuse_idle
from diffusion_policy_rt.cli.bench_options import add_arguments as add_arguments
from diffusion_policy_rt.cli.common import extra, provenance, table, write_json
from diffusion_policy_rt.cli.eval import check_seed
from diffusion_policy_rt.errors import DprtError

HELP = ('Measure latency: of the denoiser, the encoder, a whole plan, the caches, or the node '
        'over topics.')


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    refuse_idle(args)
    kind = kind_of(args)
    if kind == 'node':
        from diffusion_policy_rt.cli.demo import use_own_domain
        from diffusion_policy_rt.share import use_large_image_profile
        use_own_domain()
        use_large_image_profile()
        from diffusion_policy_rt.replay.bench_node import bench_node
        rows = bench_node((args.policy or ['pusht'])[0], args.seconds,
                          (args.engine or ['auto'])[0], (args.steps or [1])[0])
    elif kind == 'replay':
        rows = bench_bag(args)
    elif kind == 'sequences':
        rows = bench_arrivals(args)
    elif kind == 'episodes':
        rows = bench_scores(args)
    elif kind == 'cache':
        rows = bench_caches(args)
    else:
        rows = bench_engines(args)
    print(table(rows))
    if args.plot and args.what != 'cache':
        with extra('--plot', 'demo'):
            from diffusion_policy_rt.replay.bench_plot import write_plot
        write_plot(Path(args.plot), rows)
    write_json(args.json, {'rows': rows, 'provenance': provenance()})


def bench_bag(args: argparse.Namespace) -> list[dict]:
    """Measure replays of a bag with each policy and number of steps."""
    if not args.bag:
        raise DprtError('--what replay needs --bag BAG, such as the one that dprt demo records')
    with extra('--what replay', 'demo'):
        from diffusion_policy_rt.replay.bench_replay import bench_replay
    return [row for policy in args.policy or ['pusht'] for steps in args.steps or [1]
            for row in bench_replay(Path(args.bag), policy, (args.engine or ['auto'])[0], steps,
                                    args.repeats)]


def bench_caches(args: argparse.Namespace) -> list[dict]:
    """Measure the caches on trained bundles."""
    with extra('--what cache', 'demo'):
        from diffusion_policy_rt.replay.bench_cache import bench_cache
        from diffusion_policy_rt.replay.tile_picture import write_tiles

    with tempfile.TemporaryDirectory() as folder:
        policies = [made for image in args.image or [None] for made in at_size(
            args.policy or ['pusht'], image, Path(folder) / str(image))]
        if args.plot:
            write_tiles(Path(args.plot), policies[0])
        return [row for steps in args.steps or [1] for threads in args.threads or [1]
                for row in bench_cache(policies, args.engine or ['auto'], steps, threads,
                                       args.repeats)]


def bench_arrivals(args: argparse.Namespace) -> list[dict]:
    """Hold the exact caches against none over random arrivals; DprtError where one differs."""
    from functools import partial

    from tqdm import tqdm

    from diffusion_policy_rt.engines.bundle import read_bundle
    from diffusion_policy_rt.engines.load import load_engine
    from diffusion_policy_rt.replay.arrivals import check_arrivals

    rows = []
    for bundle in map(read_bundle, args.policy or ['pusht']):
        for engine in args.engine or ['auto']:
            rows.append({'what': 'arrivals', 'policy': bundle.spec.name, 'engine': engine,
                         **check_arrivals(bundle.spec, partial(load_engine, bundle, engine),
                                          args.sequences, tqdm)})
    if differ := sum(row['differ'] for row in rows):
        raise DprtError(f'{differ} plans had other actions with the exact caches than without')
    return rows


def bench_scores(args: argparse.Namespace) -> list[dict]:
    """Play closed-loop episodes under each cache, and hold their scores against none's."""
    with extra('--episodes', 'sim'):
        from diffusion_policy_rt.replay.bench_closed import Closed, bench_closed

    check_seed(args.seed)
    seeds = range(args.seed, args.seed + args.episodes)
    asked = {key: tuple(given) for key, given in (('caches', args.cache), ('levels', args.level))
             if given}
    return [row for policy in args.policy or ['pusht'] for engine in args.engine or ['auto']
            for steps in args.steps or [1] for threads in args.threads or [1]
            for row in bench_closed(
                Closed(policy, engine, steps, threads, args.noise, warm_noise=args.warm_noise,
                       **asked), seeds, args.workers)]


def at_size(policies: Sequence[str], image: int | None, folder: Path) -> list[str]:
    """Return the bundles; of another image size where one is asked for, written to `folder`."""
    if image is None:
        return list(policies)
    with extra('--image', 'train'):
        from diffusion_policy_rt.train.base import resize
    from diffusion_policy_rt.engines.bundle import read_bundle

    return [str(resize(read_bundle(policy), image, folder / str(number)).folder)
            for number, policy in enumerate(policies)]


def bench_engines(args: argparse.Namespace) -> list[dict]:
    """Measure the engines on a trained bundle, or on the base network with random weights."""
    from diffusion_policy_rt.replay.bench import bench

    steps, threads = args.steps or [1, 2, 4, 8], args.threads or [1]
    if args.what == 'fused':
        with extra('--what fused', 'train'):
            from diffusion_policy_rt.replay.bench_fused import bench_fused
        return measured(args, lambda policies: bench_fused(
            policies, steps, threads, args.repeats))
    parts = (args.what,) if args.what else PARTS
    return measured(args, lambda policies: bench(
        policies, parts, args.engine, steps, threads, args.repeats))


def measured(args: argparse.Namespace, measure: Callable[[list[str]], list[dict]]) -> list[dict]:
    """Return the rows that `measure` makes of the bundles that were asked for."""
    if args.size == 'small':
        return measure(args.policy or ['pusht'])
    with tempfile.TemporaryDirectory() as folder:
        return measure(write_sizes(args, Path(folder)))


def write_sizes(args: argparse.Namespace, folder: Path) -> list[str]:
    """Write the base network in every size and data type asked for; return the folders."""
    shapes = product(args.cameras or [1], args.image or [96], args.horizon or [16],
                     (args.params or ['250M']) if args.denoiser != 'unet' else [''])
    return [name for number, shape in enumerate(shapes)
            for name in write_dtypes(args, folder / str(number), *shape)]


def write_dtypes(args: argparse.Namespace, folder: Path, cameras: int, image: int, horizon: int,
                 params: str) -> list[str]:
    """Write the network of one size in every data type that was asked for."""
    with extra('--size base', 'train'):
        from diffusion_policy_rt.train.base import (
            DENOISER, base_spec, check_fits, quantize_base, transformer, write_base)
        from diffusion_policy_rt.train.plan import parse_count

    spec = base_spec(cameras, image, horizon)
    net = DENOISER if args.denoiser == 'unet' else transformer(
        args.denoiser, parse_count(params), horizon)
    dtypes = args.dtype or ('fp32', 'int8-dynamic')
    check_fits(spec, net, dtypes, folder.parent)
    source, folders = write_base(folder / 'fp32', spec, denoiser=net), list[str]()
    for dtype in dtypes:
        if dtype == CONVOLUTIONS:
            made = write_base(folder / dtype, spec, False, net)
        elif dtype == 'fp32':
            made = source
        else:
            made = quantize_base(source, folder / dtype, dtype.removeprefix('int8-'))
        folders.append(str(made.folder))
    return folders
