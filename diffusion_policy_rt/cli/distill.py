"""`dprt distill`: from a many-step policy to one that needs 1, 2, 4 or 8 network calls."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusion_policy_rt.cli.common import (
    add_data, add_run, add_selection, add_strategy, closed_loop, extra, natural, provenance,
    strategy, write_json)

HELP = 'Distill a policy into one of few steps and write its bundle.'
NAMES = ('consistency', 'dmd2', 'onedp-s', 'onedp-d', 'meanflow', 'fastgen-cm', 'fastgen-scm',
         'fastgen-meanflow', 'fastgen-fdistill', 'fastgen-dmd2')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--teacher', required=True, metavar='P',
                        help='bundle of the many-step policy, as dprt train wrote it')
    add_data(parser, 'the demonstrations that the teacher was trained on')
    parser.add_argument('--method', choices=NAMES, default='onedp-s',
                        help='trajectory: consistency; distribution: dmd2, onedp-s, onedp-d; '
                             'without the teacher: meanflow; fastgen-...: methods of NVIDIA\'s '
                             'FastGen, which must be installed (default onedp-s)')
    parser.add_argument('--recipe', default='', metavar='R',
                        help='YAML file (default config/recipes/distill_METHOD.yaml)')
    parser.add_argument('--epochs', type=natural, default=0, metavar='N',
                        help='passes over the data (default: the recipe\'s)')
    add_run(parser)
    add_strategy(parser)
    add_selection(parser)


def run(args: argparse.Namespace) -> None:
    """Distill, export, draw the curves."""
    with extra('distilling', 'distill'):
        import torch

        from diffusion_policy_rt.engines.bundle import read_bundle
        from diffusion_policy_rt.train.curves import write_curves
        from diffusion_policy_rt.train.distill.recipe import load_distill_recipe
        from diffusion_policy_rt.train.distill.run import Distillation, student_spec
        from diffusion_policy_rt.train.distributed import join
        from diffusion_policy_rt.train.export import export_bundle

    torch.set_num_threads(args.threads)
    shipped = f'distill_{args.method.replace("-", "_")}'
    recipe = load_distill_recipe(args.recipe or shipped, args.method, args.epochs)
    teacher, out, origin = read_bundle(args.teacher), Path(args.out), provenance()
    world = join(strategy(args))
    selection = closed_loop(args)
    if selection is not None:
        selection.served(student_spec(teacher.spec, recipe))  # before the data are read
    run = Distillation(teacher, recipe, args.data, out, args.seed, world, selection)
    student = run.run()
    world.leave()
    if not world.leads:
        return
    facts = {
        'training': {'method': args.method, 'teacher': run.digest, 'recipe': recipe.source,
                     'teacher_recipe': dict(teacher.training['recipe']), **run.facts,
                     'seed': args.seed, 'hours': run.history.seconds / 3600,
                     'epochs': len(run.history.train), 'best_epoch': run.history.best_epoch,
                     'measures': run.history.measures[run.history.best_epoch - 1],
                     'device': str(world.device), 'processes': world.size,
                     'threads': args.threads},
        'quality': {}, 'provenance': origin}
    bundle = export_bundle(student, run.model, out / 'bundle', facts)
    write_curves(out / 'curves.png', {args.method: run.history})
    print(f'{bundle.folder}: distilled in {run.history.seconds / 60:.1f} min; next: '
          f'dprt eval --policy {bundle.folder} --steps {min(student.spec.steps)}')
    write_json(args.json, {'bundle': str(bundle.folder), 'sha256': bundle.digest,
                           'history': run.history.measures, **facts})
