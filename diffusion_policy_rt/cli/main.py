"""The `dprt` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from diffusion_policy_rt import __version__
from diffusion_policy_rt.errors import DprtError

COMMANDS = ('demo', 'expert', 'train', 'distill', 'quantize', 'cache', 'export', 'eval', 'table',
            'infer', 'bench', 'soak', 'replay', 'tune', 'import', 'plan', 'info')
"""One module of this package each: `HELP`, `add_arguments(parser)` and `run(args)`."""
MODULES = {'import': 'import_'}
"""Of the commands whose names Python keeps for itself."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog='dprt', description='Run, train and measure real-time diffusion policies.')
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in COMMANDS:
        module = importlib.import_module(f'diffusion_policy_rt.cli.{MODULES.get(name, name)}')
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument('--json', metavar='FILE', help='write the result as JSON')
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a DprtError ends it with one line and exit code 1."""
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
    except DprtError as error:
        print(f'dprt {args.command}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'dprt {args.command}: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == '__main__':
    sys.exit(main())
