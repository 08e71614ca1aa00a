"""The stages of `dprt tune` that are made: by the commands that make them by hand."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from diffusion_policy_rt.engines.bundle import MANIFEST, read_bundle
from diffusion_policy_rt.errors import DprtError


class Makers:
    """Quantizes and distils a policy in `folder`, once; what stands there is taken.

    The name of each folder comes from all that its bundle depends on: the policy's files, the data
    and the options. A distillation that was killed goes on.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args, self._folder = args, folder
        self._data = [str(Path(path).resolve()) for path in args.data or [args.bag] if path]
        self.left_out: list[str] = []
        """Why a stage was left out."""

    @property
    def told(self) -> list[str]:
        """What was left out, a sentence each."""
        return [f'Left out: {reason}.' for reason in self.left_out]

    def quantized(self) -> Iterator[str]:
        """Yield the quantized bundles: those that were given, else one that is made."""
        yield from self._args.quantized or self._quantize(self._args.policy)

    def distilled(self) -> Iterator[str]:
        """Yield the students: those that were given, else one that is made."""
        yield from self._args.distilled or self._distil(self._args.policy)

    def again(self, student: str) -> Iterator[str]:
        """Yield the quantized bundle of a student."""
        yield from self._quantize(student)

    def _quantize(self, policy: str) -> Iterator[str]:
        from diffusion_policy_rt.replay.tune import QUANTIZED

        args = self._args
        options = ['--observations', str(args.observations), '--seed', str(args.seed)]
        if args.recipe:
            options += ['--recipe', args.recipe]
        out = self._place(QUANTIZED, policy, options)
        # what its quality is worth is measured by the ladder itself
        yield from self._make(out, out, ['quantize', '--policy', policy, '--threads',
                                         str(args.threads), '--episodes', '0', '--override',
                                         *options])

    def _distil(self, policy: str) -> Iterator[str]:
        from diffusion_policy_rt.replay.tune import STUDENT

        args = self._args
        options = ['--method', args.method, '--seed', str(args.seed)]
        if args.distill_recipe:
            options += ['--recipe', args.distill_recipe]
        if args.epochs:
            options += ['--epochs', str(args.epochs)]
        out = self._place(STUDENT, policy, options)
        yield from self._make(out, out / 'bundle', ['distill', '--teacher', policy, '--threads',
                                                    str(args.threads), *options])

    def _place(self, name: str, policy: str, options: list[str]) -> Path:
        files = {file: entry['sha256'] for file, entry in read_bundle(policy).files.items()}
        key = json.dumps([files, self._data, options], sort_keys=True)
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:8] / name

    def _make(self, out: Path, bundle: Path, words: list[str]) -> Iterator[str]:
        """Yield the bundle, made by a command unless it stands; nothing where it cannot be."""
        from diffusion_policy_rt.cli.main import make_parser
        if not (bundle / MANIFEST).is_file():
            if not self._data:
                return
            given = [word for path in self._data for word in ('--data', path)]
            command = make_parser().parse_args([*words, *given, '--out', str(out)])
            print(f'dprt {" ".join([*words, *given])}')
            try:
                command.run(command)
            except DprtError as error:
                self.left_out.append(f'{words[0]}: {error}')
                print(f'left out: {self.left_out[-1]}')
                return
        yield str(bundle)
