"""`dprt info`: what a bundle is."""

from __future__ import annotations

import argparse
from typing import Any

from diffusion_policy_rt.cli.common import table, write_json
from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.parity import deviation
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.runtime.tiling import Tiling

HELP = 'Show what a bundle is: spec, sizes, data types, step counts, hashes.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('policy', nargs='?', default='pusht', metavar='P',
                        help='bundle folder, or the name of a shipped bundle (default pusht)')
    parser.add_argument('--engine', default='auto', metavar='E',
                        help='engine whose execution is looked into (default auto)')


def executed(bundle: Bundle, engine: str) -> dict[str, Any]:
    """Return what each product of the bundle is executed in here, or why no engine runs it."""
    try:
        made = load_engine(bundle, engine)
    except DprtError as error:
        return {'engine': None, 'reason': str(error)}
    found, tiling = deviation(bundle, made), Tiling(bundle.spec, made)
    tiling.prove()
    return {'engine': made.name, 'deviation': found and found[0], 'tolerance': found and found[1],
            'caches': Caching.of(bundle, made, tiling.exact).to_json(),
            'dtypes': dict(made.dtypes), 'layers': {
        part: [{'layer': layer.name, 'op': layer.op, 'dtype': layer.dtype} for layer in layers]
        for part, layers in made.executed.items()}}


def describe(bundle: Bundle) -> dict[str, Any]:
    """Return everything `--json` holds about the bundle itself."""
    return {'folder': str(bundle.folder), 'sha256': bundle.digest,
            'spec': bundle.spec.to_json(), 'steps': list(bundle.spec.steps),
            'bytes': sum(entry['bytes'] for entry in bundle.files.values()),
            'files': dict(bundle.files), 'model': dict(bundle.model),
            'dtypes': dict(bundle.dtypes), 'blocks': dict(bundle.blocks),
            'training': dict(bundle.training),
            'quality': dict(bundle.quality), 'provenance': dict(bundle.provenance)}


def summary(ran: dict[str, Any]) -> str:
    """Return one line: each part's types on this engine."""
    if not ran['engine']:
        return ran['reason']
    off = ran['deviation']
    parity = '' if off is None else (
        f'; {off:.2g} from the stored outputs (at most {ran["tolerance"]:.2g})')
    return f'{ran["engine"]}: ' + '; '.join(
        f'{part} {dtype}' for part, dtype in ran['dtypes'].items()) + parity


def caches(ran: dict[str, Any]) -> str:
    """Return one line: what the engine can keep, and why it cannot keep the rest."""
    told = ran.get('caches')
    if told is None:
        return 'nothing'
    tiles = [f'tiles of {camera}' + ('' if exact else ' (approximate)')
             for camera, exact in told['tiles'].items()]
    blocks = [f'blocks in {count} steps' for count in told['blocks']]
    kept = ['latents', *(['condition'] if told['condition'] else []), *tiles, *blocks]
    return '; '.join([', '.join(kept), *told['notes']])


def run(args: argparse.Namespace) -> None:
    """Print the description of one bundle."""
    bundle = read_bundle(args.policy)
    result, spec = {**describe(bundle), 'executed': executed(bundle, args.engine)}, bundle.spec
    cameras = ', '.join(f'{c.name} {c.width}x{c.height}' for c in spec.cameras)
    rows = {
        'policy': f'{spec.name} ({bundle.folder})', 'sha256': bundle.digest,
        'cameras': cameras, 'state': ', '.join(spec.state.names),
        'action': f'{", ".join(spec.action.names)} ({spec.action.reference})',
        'observations': spec.n_obs, 'horizon': spec.horizon,
        'executed': spec.n_action_steps, 'rate': f'{spec.rate:g} Hz',
        'steps': ', '.join(map(str, spec.steps)), 'parametrisation': spec.precond.kind,
        'model': f'{bundle.model.get("encoder")} {bundle.model.get("denoiser")}',
        'size': f'{result["bytes"] / 1e6:.1f} MB', 'dtypes': bundle.dtypes,
        'runs as': summary(result['executed']), 'can keep': caches(result['executed']),
        'quality': bundle.quality or 'not measured', 'made by': bundle.provenance}
    for key, value in rows.items():
        print(f'{key:>16}  {value}')
    for part, layers in result['executed'].get('layers', {}).items():
        print(f'\n{part}\n{table(layers)}')
    write_json(args.json, result)
