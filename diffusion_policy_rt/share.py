"""Find the files that are installed beside the code (config/, launch/)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = 'diffusion_policy_rt'


def find(relative: str) -> Path | None:
    """Return the shared file or folder `relative`, of this checkout or an installed prefix."""
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    roots = [Path(__file__).parent.parent,
             *(Path(prefix) / 'share' / PACKAGE for prefix in prefixes if prefix)]
    return next((root / relative for root in roots if (root / relative).exists()), None)


def use_large_image_profile() -> None:
    """Let Fast DDS carry large raw images in this process and its children (config/fastdds.xml).

    A profile that is already named in the environment stays.
    """
    profile = find('config/fastdds.xml')
    for name in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        if profile is not None:
            os.environ.setdefault(name, str(profile))
