"""Turns missing packages and damaged files into one clear line each."""

import importlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

from diffusion_policy_rt.errors import DataError

# What numpy, zarr, pyarrow, and json raise on a damaged file.
_DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    BadZipFile,
    zlib.error,
)


def require(module: str) -> ModuleType:
    """Import an optional package.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"package '{module}' is needed to read this data set ({error}); "
            'install it with: pip install diffusion_policy_rt[train]'
        ) from error


@contextmanager
def reading(
    path: Path | str, *damage: type[Exception], cure: str = 'copy the data set again'
) -> Iterator[None]:
    """Turn what a library raises on a damaged file into a DataError that names `path`.

    Args:
        path: file or array that is being read.
        damage: exceptions of the library beyond the built-in ones.
        cure: what the user can do.
    """
    try:
        yield
    except _DAMAGE + damage as error:
        why = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        raise DataError(f'{path}: cannot be read ({why}); {cure}') from error
