"""Find the files that are installed beside the code (config/, launch/)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion_policy_rt.errors import DataError

PACKAGE = 'diffusion_policy_rt'


def find(relative: str) -> Path | None:
    """Return the shared file or folder `relative`, of this checkout or an installed prefix."""
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    roots = [Path(__file__).parent.parent,
             *(Path(prefix) / 'share' / PACKAGE for prefix in prefixes if prefix)]
    return next((root / relative for root in roots if (root / relative).exists()), None)


def read_yaml(name: str | Path, kind: str) -> Mapping[str, Any]:
    """Read a YAML file of this kind, or config/KINDs/NAME.yaml; {} where it holds no mapping."""
    path = Path(name)
    if not path.is_file():
        path = find(f'config/{kind}s/{Path(name).stem}.yaml') or path
    if not path.is_file():
        raise DataError(f'no {kind} {name}: give a YAML file or a name in config/{kind}s/')
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DataError(f'{path} is no YAML: {str(error).splitlines()[0]}') from error
    return data if isinstance(data, Mapping) else {}


def use_large_image_profile() -> None:
    """Let Fast DDS carry large raw images in this process and its children (config/fastdds.xml).

    A profile that is already named in the environment stays.
    """
    profile = find('config/fastdds.xml')
    for name in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        if profile is not None:
            os.environ.setdefault(name, str(profile))
