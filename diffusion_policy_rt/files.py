"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffusion_policy_rt.errors import DprtError


@contextmanager
def whole_file(path: Path, failure: type[DprtError] = DprtError) -> Iterator[Path]:
    """Yield a path to write to; what was written takes the place of `path` at the end.

    Whatever is raised leaves `path` as it was. An OSError becomes a `failure` in one line.
    """
    partial = path.with_name(f'.{path.name}.partial')
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise failure(f'cannot write {path}: {error.strerror}') from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
