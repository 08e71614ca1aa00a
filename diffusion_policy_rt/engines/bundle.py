"""A bundle: a folder that holds a policy ready to run.

    policy.json            spec, model, files with their hashes, training, quality, dtypes
    weights.safetensors    every tensor, once
    encoder_<camera>.onnx  graphs whose large tensors lie in weights.safetensors
    denoiser.onnx
    denoiser_level.onnx, denoiser_observed.onnx, denoiser_step.onnx   the same in three parts
    denoiser_step_<fresh>.onnx   its step where only some branches are computed
    stage_<camera>_<i>.onnx, stage_<camera>_head.onnx   an encoder in stages, where it has them
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import BundleError, SpecError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.spec import PolicySpec

FORMAT = 1
MANIFEST = 'policy.json'
WEIGHTS = 'weights.safetensors'
SHIPPED = Path(__file__).parent.parent / 'bundles'
SPLIT = ('denoiser_level', 'denoiser_observed', 'denoiser_step')
"""The denoiser's parts: of the levels, of the condition, and what every network call runs."""
HEAD = 'head'
"""In place of its number: what makes the latent of the last stage's output."""
GEOMETRY = ('extent', 'stride', 'margin')
"""Metadata of a stage's graph, a number for each layer: the fields of `ReceptiveField`."""
KEYS = ('format', 'spec', 'model', 'files', 'training', 'quality', 'dtypes', 'provenance',
        'blocks')


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole."""

    folder: Path
    spec: PolicySpec
    digest: str
    """SHA-256 of policy.json, which holds the hashes of all other files."""
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    dtypes: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocks: Mapping[str, Any] = field(default_factory=dict)
    """Step count to which branches its calls compute, and what that costs."""

    def path(self, name: str) -> Path:
        """Return the path of one of its files; BundleError if it has none of that name."""
        if name not in self.files:
            raise BundleError(f'{self.folder} has no {name}; it holds {", ".join(self.files)}')
        return self.folder / name


def masked_part(fresh: str) -> str:
    """Return the name of the graph of a step that computes some branches, one for each 1."""
    return f'{SPLIT[2]}_{fresh}'


def stage_part(camera: str, stage: int | str) -> str:
    """Return the name of the graph of one stage of a camera's encoder, or of its `HEAD`."""
    return f'stage_{camera}_{stage}'


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def resolve(policy: str | Path) -> Path:
    """Return the folder of a bundle: a path, the name of a shipped bundle, or '' for `pusht`."""
    if not str(policy):
        return SHIPPED / 'pusht'
    path = Path(policy).expanduser()
    if path.exists() or not (SHIPPED / str(policy)).is_dir():
        return path
    return SHIPPED / str(policy)


def read_bundle(policy: str | Path) -> Bundle:
    """Read a bundle and check every file against its hash.

    Raises BundleError for a folder that is none, an unknown format, or a file that is missing,
    truncated or changed.
    """
    folder = resolve(policy)
    if not (folder / MANIFEST).is_file():
        shipped = ', '.join(sorted(p.name for p in SHIPPED.iterdir())) if SHIPPED.is_dir() else '-'
        raise BundleError(f'{folder} is no bundle: it has no {MANIFEST}; give a folder made by '
                          f'dprt train, or one of the shipped: {shipped}')
    text = (folder / MANIFEST).read_bytes()
    try:
        data = json.loads(text)
        unknown = sorted(set(data) - set(KEYS))
    except (ValueError, TypeError) as error:
        raise BundleError(f'{folder / MANIFEST} is damaged: {error}') from error
    if not isinstance(data, dict) or data.get('format') != FORMAT or unknown:
        raise BundleError(f'{folder / MANIFEST} is of an unknown format'
                          f'{" (key " + unknown[0] + ")" if unknown else ""}; '
                          f'this version reads format {FORMAT}')
    try:
        spec = PolicySpec.from_json(data.get('spec', {}))
    except SpecError as error:
        raise BundleError(f'{folder / MANIFEST}: {error}') from error
    files = data.get('files', {})
    if not isinstance(files, Mapping):
        raise BundleError(f'{folder / MANIFEST} is damaged: files must be an object')
    for name, entry in files.items():
        _check_file(folder, name, entry)
    parts = {key: data.get(key, {}) for key in KEYS if key not in ('format', 'spec')}
    return Bundle(folder, spec, hashlib.sha256(text).hexdigest(), **parts)


def _check_file(folder: Path, name: str, entry: Any) -> None:
    if not isinstance(entry, Mapping) or name in ('', '..') or Path(name).name != name:
        raise BundleError(f'{folder / MANIFEST} is damaged: {name!r} is no file name with its '
                          'size and hash')
    path = folder / name
    if not path.is_file():
        raise BundleError(f'{path} is missing; copy the bundle again')
    size = path.stat().st_size
    if size != entry.get('bytes'):
        raise BundleError(f'{path} has {size} bytes instead of {entry.get("bytes")}; '
                          'copy the bundle again')
    if sha256(path) != entry.get('sha256'):
        raise BundleError(f'{path} was changed: its hash is not the one in {MANIFEST}; '
                          'copy the bundle again')


def record_quality(bundle: Bundle, measured: Mapping[str, Any]) -> Bundle:
    """Add what was measured of a bundle to its manifest, whole or not at all; return it anew."""
    manifest = bundle.folder / MANIFEST
    data = json.loads(manifest.read_text())
    data['quality'] = {**data.get('quality', {}), **measured}
    with whole_file(manifest, BundleError) as partial:
        partial.write_text(json.dumps(data, indent=1) + '\n')
    return read_bundle(bundle.folder)


def write_bundle(folder: Path, manifest: Mapping[str, Any],
                 fill: Callable[[Path], None]) -> Bundle:
    """Write a bundle whole or not at all, replacing one that stands at `folder`.

    `manifest` holds the keys of policy.json but `format` and `files`; `fill` writes the other
    files into the folder it is given.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        fill(partial)
        os.chmod(partial, 0o755)  # what was written may be its owner's only
        for path in partial.iterdir():
            os.chmod(path, 0o644)
        files = {path.name: {'bytes': path.stat().st_size, 'sha256': sha256(path)}
                 for path in sorted(partial.iterdir())}
        data = {'format': FORMAT, **manifest, 'files': files}
        (partial / MANIFEST).write_text(json.dumps(data, indent=1, sort_keys=False) + '\n')
        read_bundle(partial)
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_bundle(folder)


def copy_bundle(bundle: Bundle, folder: Path, quality: Mapping[str, Any]) -> Bundle:
    """Write the bundle to another folder with what was measured of it."""
    def fill(partial: Path) -> None:
        for name in bundle.files:
            shutil.copyfile(bundle.path(name), partial / name)

    manifest = json.loads((bundle.folder / MANIFEST).read_text())
    kept = {key: manifest[key] for key in KEYS if key in manifest and key not in (
        'format', 'files')}
    return write_bundle(folder, {**kept, 'quality': {**bundle.quality, **quality}}, fill)


def _replace(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(new, folder)
        return
    if not folder.is_dir() or not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise BundleError(f'{folder} exists and is no bundle; choose another folder')
    old = new.with_name(new.name + '.old')
    os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old)
