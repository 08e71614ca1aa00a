"""Find out what a source is, and read it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.lerobot import Statistics, read_lerobot
from diffusion_policy_rt.train.importing.original import read_original
from diffusion_policy_rt.train.importing.source import Source

KINDS = ('the folder of a LeRobot diffusion policy (config.json, model.safetensors), or a .ckpt '
         'file of the original Diffusion Policy')
ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What values of another form than they have in checkpoints lead to."""


def read_source(name: str, measured: Statistics | None = None) -> Source:
    """Read a LeRobot folder, also by its name on the hub, or a `.ckpt` file of the original code.

    BundleError for what is neither. The statistics of the latter are always its own.
    """
    path = locate(name)
    if path.is_file() and path.suffix in ('.json', '.safetensors'):
        raise BundleError(f'{path} is one file of a policy; give the folder that holds it')
    try:
        return read_original(path) if path.is_file() else read_lerobot(holding(path), measured)
    except ODD as error:
        why = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
        raise BundleError(f'{path} has values of a form that no supported checkpoint has ({why}); '
                          f'copy it again, or give {KINDS}') from error


def locate(name: str) -> Path:
    """Return the path of a file or folder, which is fetched from the hub where there is none."""
    try:
        path = Path(name).expanduser()
        if not path.exists() and re.fullmatch(r'[\w.-]+/[\w.-]+', name):
            path = download(name)
        if path.exists():
            return path
        reason = 'there is no such file or folder'
    except (OSError, RuntimeError) as error:  # too long a name; the home of nobody
        reason = getattr(error, 'strerror', None) or str(error)
    raise BundleError(f'{name[:200]}: {reason}; give {KINDS}')


def holding(path: Path) -> Path:
    """Return the folder of the configuration: LeRobot's training puts it one folder down."""
    for folder in (path, path / 'pretrained_model'):
        if (folder / 'config.json').is_file():
            return folder
    raise BundleError(f'{path} holds no policy that can be imported; give {KINDS}')


def download(name: str) -> Path:
    """Fetch a checkpoint from the hub, configuration and safetensors only."""
    try:
        hub = importlib.import_module('huggingface_hub')
    except ImportError as error:
        raise BundleError(f'{name} is no folder here, and fetching it from the hub needs '
                          'huggingface_hub: pip install huggingface_hub') from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=['*.json', '*.safetensors']))
    except Exception as error:  # requests, httpx, offline mode: each raises its own
        why = ' '.join(str(error).split())[:160]
        raise BundleError(f'{name} is no folder here, and the hub cannot be reached or has none '
                          f'({why}); download it elsewhere and give its folder') from error
