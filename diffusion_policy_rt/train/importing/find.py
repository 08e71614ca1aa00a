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


def read_source(name: str, measured: Statistics | None = None) -> Source:
    """Read a LeRobot folder, also by its name on the hub, or a `.ckpt` file of the original code.

    BundleError for what is neither. The statistics of the latter are always its own.
    """
    path = Path(name).expanduser()
    if not path.exists() and re.fullmatch(r'[\w.-]+/[\w.-]+', name):
        path = download(name)
    if not path.exists():
        raise BundleError(f'{path}: there is no such file or folder; give {KINDS}')
    if path.is_file():
        return read_original(path)
    if (path / 'config.json').is_file():
        return read_lerobot(path, measured)
    nested = path / 'pretrained_model'
    if (nested / 'config.json').is_file():  # LeRobot's training puts it one folder down
        return read_lerobot(nested, measured)
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
