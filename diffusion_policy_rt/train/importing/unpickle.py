"""Pickled checkpoints, read without executing anything that they name.

Tensors are rebuilt; objects of known packages become inert records of what was stored of them; a
name of anything else ends the reading.
"""

from __future__ import annotations

import collections
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import torch

from diffusion_policy_rt.errors import BundleError

ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
    ('torch', 'Size'): torch.Size,
    **{('builtins', kind.__name__): kind for kind in (
        dict, list, tuple, set, int, float, bool, str)},
}
"""What is called: it makes values and does nothing else."""
INERT = ('omegaconf', 'typing', 'torch', 'numpy', 'collections', 'dill', 'diffusion_policy',
         'pathlib', 'builtins.object', 'builtins.type', 'builtins.bytes',
         'copyreg._reconstructor', '_codecs.encode')
"""Packages and names whose objects are kept as records, and never made."""


class Record:
    """What was stored of an object; nothing of its class is loaded."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stored: Any = args

    def __setstate__(self, state: Any) -> None:
        self.stored = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop items of a mapping that is of no interest."""

    def __hash__(self) -> int:
        return id(self)


class Unpickler(pickle.Unpickler):
    """Finds values and records only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; UnpicklingError where it could do harm."""
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module.partition('.')[0] in INERT or f'{module}.{name}' in INERT:
            return Record
        raise pickle.UnpicklingError(f'it wants to run {module}.{name}')


def _pickle_module() -> Any:
    made: Any = types.ModuleType('restricted_pickle')
    made.Unpickler, made.UnpicklingError = Unpickler, pickle.UnpicklingError
    made.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()
    return made


def _is_plain_zip(path: Path) -> bool:
    """Tell whether it holds no TorchScript, which torch would load as a program."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith('constants.pkl') for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_pickle(path: Path) -> dict[str, Any]:
    """Return what a file of torch.save holds; BundleError where it would run code."""
    if not _is_plain_zip(path):
        raise BundleError(f'{path} is damaged, or no zip file of torch.save: programs and the '
                          'form before torch 1.6 are not read; copy it again, or save it anew')
    try:
        data = torch.load(path, map_location='cpu', pickle_module=_pickle_module(),
                          weights_only=False)
    except pickle.UnpicklingError as error:
        raise BundleError(f'{path} is refused: {error}; a checkpoint needs no code') from error
    except Exception as error:  # a damaged pickle can raise anything
        why = ' '.join(f'{type(error).__name__}: {error}'.split())[:160]
        raise BundleError(f'{path} cannot be read ({why}); copy it again') from error
    if not isinstance(data, dict):
        raise BundleError(f'{path} holds no checkpoint but {type(data).__name__}')
    return data


def plain(value: Any) -> Any:
    """Return a configuration of omegaconf's as dictionaries, lists and values."""
    if isinstance(value, Record):
        stored = value.stored
        if isinstance(stored, tuple) and len(stored) == 2 and isinstance(stored[0], dict):
            stored = stored[0]
        if not isinstance(stored, dict):
            return None
        return plain(stored.get('_content', stored.get('_val')))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
