"""`dprt quantize`: the same policy in 8 bits, with the proof that it still does the same."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_data, add_seed, extra, natural, positive, provenance, table, write_json)
from diffusion_policy_rt.engines.load import gpu
from diffusion_policy_rt.errors import DprtError, SpecError

if TYPE_CHECKING:
    import numpy as np

    from diffusion_policy_rt.engines.bundle import Bundle
    from diffusion_policy_rt.replay.fidelity import Comparison
    from diffusion_policy_rt.train.quantize.probe import Patched
    from diffusion_policy_rt.train.quantize.run import Part

    Observations = list[dict[str, np.ndarray]]

HELP = 'Quantize a policy to 8 bits for this machine, and write it with the proof of its fidelity.'
KINDS = ('auto', 'fp32', 'dynamic', 'static', 'weight-only')
TENSORRT = 'tensorrt'
FORMS = ('int8', 'fp8', 'nvfp4')
GATE_SEED = 350_000
"""First seed of the gate's episodes: no demonstration, no published test seed, and none that a
checkpoint was chosen on."""
SWEEP = 32
"""Observations that are recorded, and under which the layers' sensitivity is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--policy', default='pusht', metavar='P',
                        help='fp32 bundle folder, or the name of a shipped one (default pusht)')
    add_data(parser, 'demonstrations or bags: calibration and comparison see their images',
             '--calibrate')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='the bundle to write')
    parser.add_argument('--recipe', default='', metavar='R',
                        help='recipe that names the data\'s streams (default: the bundle\'s own)')
    parser.add_argument('--checkpoint', metavar='DIR',
                        help='take the weights from a folder that NVIDIA modelopt exported')
    parser.add_argument('--engine', choices=('onnxruntime', TENSORRT), default='onnxruntime',
                        help='what is to run it: onnxruntime, on a CPU like this one (default), '
                             'or tensorrt, on a GPU, in a --form')
    parser.add_argument('--form', choices=FORMS, default='int8',
                        help='tensorrt: int8 with calibrated ranges (default), or the denoiser\'s '
                             'products in fp8 (GPUs from compute capability 8.9) or nvfp4 (10.0)')
    parser.add_argument('--encoder', choices=KINDS, default='auto',
                        help='onnxruntime: form of the encoders (default: by measurement)')
    parser.add_argument('--denoiser', choices=KINDS, default='auto',
                        help='onnxruntime: form of the denoiser (default: by measurement)')
    parser.add_argument('--steps', type=positive, default=0, metavar='K',
                        help='network calls per plan in the closed loop (default: the most '
                             'served up to 8)')
    parser.add_argument('--observations', type=positive, default=128, metavar='N',
                        help='observations under which chunks are compared (default 128)')
    parser.add_argument('--episodes', type=natural, default=200, metavar='N',
                        help='paired closed-loop episodes (default 200)')
    parser.add_argument('--threads', type=positive, default=1, metavar='N',
                        help='threads per matrix product while measuring (default 1)')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, metavar='W',
                        help='processes of the closed loop (default: one per core)')
    parser.add_argument('--override', action='store_true',
                        help='write the bundle although it fails the gate; recorded in it')
    add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Choose the forms, quantize, prove, write."""
    with extra('quantizing', 'train'):
        from diffusion_policy_rt.train.quantize.run import reexport
    from diffusion_policy_rt.engines.bundle import copy_bundle, read_bundle

    bundle = read_bundle(args.policy)
    refuse_quantized(bundle)
    seen = observations(args, bundle)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(args.checkpoint) if args.checkpoint else None
        # what their branches cost is measured anew, so schedules are kept for other weights too
        source = reexport(bundle, Path(folder) / 'fp32', checkpoint,
                          products=args.engine != TENSORRT or args.form != 'int8',
                          blocks=bundle.blocks)
        made, report, costs, parts = quantize(args, bundle, source, seen,
                                              Path(folder) / 'int8')
        report |= closed_loop(args, source, made)
        judge(report, args.override)
        kept = copy_bundle(made, Path(args.out), {'quantization': report, **costs})
    tell_left_out(bundle, kept)
    print(f'{kept.folder}: {report["size_ratio"]:.2f} of the fp32 size; next: '
          f'dprt info {kept.folder}')
    write_json(args.json, {
        'bundle': str(kept.folder), 'sha256': kept.digest, **report, 'blocks': costs,
        'trials': {part.name: trial_rows(part) for part in parts},
        'sensitivity': {part.name: part.shares for part in parts}, 'provenance': provenance()})


def refuse_quantized(bundle: Bundle) -> None:
    """Raise DprtError for a bundle that is quantized already."""
    if any(str(dtype).startswith(FORMS) for dtype in bundle.dtypes.values()):
        raise DprtError(f'{bundle.folder} is quantized already; give the fp32 bundle that it was '
                        'made from')


def tell_left_out(bundle: Bundle, made: Bundle) -> None:
    """Print which schedules of blocks a bundle lost on its way."""
    if left := sorted(set(bundle.blocks) - set(made.blocks), key=int):
        print(f'without the schedule of blocks of {", ".join(left)} steps: it was found for other '
              'weights, or the new bundle\'s engine computes all blocks (dprt cache)')


def observations(args: argparse.Namespace, bundle: Bundle) -> Observations:
    """Draw what is calibrated on, and as many to compare under, which it never saw."""
    from diffusion_policy_rt.train.quantize.observations import read_observations, stream_recipe

    return read_observations(bundle, stream_recipe(bundle, args.recipe), args.data,
                             2 * args.observations, args.seed)


def quantize(args: argparse.Namespace, bundle: Bundle, source: Bundle, seen: Observations,
             folder: Path) -> tuple[Bundle, dict[str, Any], dict[str, Any], list[Part]]:
    """Write the quantized bundle to `folder`.

    Returns it with the report so far, and what its schedules of blocks cost its own chunks.
    """
    from diffusion_policy_rt.engines.onnx_engine import OnnxEngine
    from diffusion_policy_rt.replay.fidelity import Comparison, cost_name, cost_of_blocks
    from diffusion_policy_rt.train.quantize import run as quantizing
    from diffusion_policy_rt.train.quantize.probe import Patched, Recorder

    count, spec = args.observations, source.spec
    recorder = Recorder(source)
    sweep = Comparison(recorder, spec, seen[:min(count, SWEEP)], args.seed)
    facts = {'training': dict(bundle.training), 'provenance': {
        **provenance(), 'source': bundle.digest, 'calibration': {
            'data': [Path(path).name for path in args.data], 'observations': count,
            'seed': args.seed}}}
    # compared under observations that nothing was calibrated on
    comparison = Comparison(OnnxEngine(source), spec, seen[count:], args.seed)
    if args.engine == TENSORRT and args.form != 'int8':
        return *quantizing.write_float(source, recorder.feeds, args.form, folder, facts,
                                       comparison), {}, []
    if args.engine == TENSORRT:
        return *quantizing.write_tensorrt(source, recorder.feeds, folder, facts,
                                          comparison), {}, []
    parts, engine = quantizing.make_parts(source, recorder.feeds), Patched(source)
    for part in parts:
        settle(args, part, engine, sweep)
    made, report = quantizing.keep_sensitive(source, parts, folder, facts, comparison)
    runs = OnnxEngine(made)
    return made, report, {cost_name(steps): cost_of_blocks(
        made, runs, seen[count:], args.seed, int(steps)) for steps in made.blocks}, parts


def settle(args: argparse.Namespace, part: Part, engine: Patched, comparison: Comparison) -> None:
    """Choose a part's form and find its sensitive layers; print both."""
    from tqdm import tqdm

    from diffusion_policy_rt.train.quantize import run as quantizing
    from diffusion_policy_rt.train.quantize.forms import named

    asked = args.denoiser if part.name == 'denoiser' else args.encoder
    quantizing.settle(part, None if asked == 'auto' else named(asked), args.threads, engine,
                      comparison, lambda names: tqdm(names, unit='layer', desc=part.name))
    print(f'{part.name}: {part.form}')
    print(table(trial_rows(part)))
    print(table([{'layer': name, 'share of the gate alone': value}
                 for name, value in sorted(part.shares.items(), key=lambda item: -item[1])]))


def trial_rows(part: Part) -> list[dict[str, Any]]:
    """Return what was measured of each form."""
    return [{'form': str(t.form), 'executed': t.executed, 'relative_error': t.error,
             'p50_s': t.seconds, 'bytes': t.bytes} for t in part.trials]


def closed_loop(args: argparse.Namespace, source: Bundle, made: Bundle) -> dict[str, Any]:
    """Return the paired difference of the scores over the same episodes.

    `score_loss` is None where the simulator does not simulate the policy's task, and missing
    where no episodes were asked for.
    """
    from tqdm import tqdm

    from diffusion_policy_rt.replay.compare import paired_difference
    from diffusion_policy_rt.replay.evaluate import Evaluation, evaluate, outcome, summarise
    from diffusion_policy_rt.sim.tasks import task_of

    if args.engine == TENSORRT and not gpu():
        print('no closed loop: TensorRT needs a GPU, and there is none here')
    if not args.episodes or args.engine == TENSORRT and not gpu():
        return {}
    try:
        task_of(source.spec, args.policy)
    except SpecError as error:
        print(f'no closed loop: {error}')
        return {'score_loss': None}
    seeds, played = range(GATE_SEED, GATE_SEED + args.episodes), []
    for bundle in (source, made):
        engine = args.engine if bundle is made else 'onnxruntime'
        what = Evaluation(str(bundle.folder), args.steps, engine)
        episodes = evaluate(what, seeds, min(args.workers, args.episodes))
        played.append(summarise([outcome(episode) for episode in tqdm(
            episodes, total=len(seeds), unit='episode', desc=bundle.folder.name)]))
    before, after = played
    pair = paired_difference(after['per_episode'], before['per_episode'])
    return {'score_loss': -pair['difference'], 'score_difference_ci95': pair['ci95'],
            'score': after['mean_max_coverage'], 'score_fp32': before['mean_max_coverage'],
            'closed_loop_jerk_ratio': after['jerk'] / before['jerk'],
            'episodes': args.episodes, 'first_seed': GATE_SEED}


def judge(report: dict[str, Any], override: bool) -> None:
    """Print the gate's measures and record its verdict; DprtError where it fails."""
    from diffusion_policy_rt.train.quantize.gate import LIMITS, failures

    failed = failures(report)
    report |= {'failed': failed, 'overridden': bool(failed) and override}
    print(table([{'measure': name, 'value': report.get(name, 'not measured'), 'at most': most}
                 for name, most in LIMITS.items()]))
    chance = doubt(report)
    if failed and not override:
        raise DprtError(f'not written, because the gate fails: {"; ".join(failed)}; {chance}keep '
                        'more in fp32 (--encoder, --denoiser), or --override, which is recorded')


def doubt(report: dict[str, Any]) -> str:
    """Print the scores; return advice where their difference may as well be none."""
    if report.get('score_loss') is None:
        return ''
    low, high = report['score_difference_ci95']
    print(f'score {report["score"]:.3f} against {report["score_fp32"]:.3f} over '
          f'{report["episodes"]} episodes: {-report["score_loss"]:+.4f} [{low:+.4f}, {high:+.4f}]')
    return 'more --episodes tell the score more exactly; ' if low <= 0 <= high else ''
