"""What the readers of all formats share: choice of keys, and conversion to streams."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from diffusion_policy_rt.errors import DataError


class MayLack(tuple[str, ...]):
    """The keys of a stream that a source need not have."""


def pick_keys(
    keys: Mapping[str, Sequence[str]], present: Collection[str], source: str
) -> dict[str, str]:
    """Return stream name -> the first of its keys that is present.

    Raises:
        DataError: a stream has none of its keys there, and they are not `MayLack`.
    """
    found = {name: next((k for k in ks if k in present), None) for name, ks in keys.items()}
    for name, key in found.items():
        if key is None and not isinstance(keys[name], MayLack):
            raise DataError(
                f"{source}: stream '{name}' is not there under any of its keys "
                f'({", ".join(keys[name])}); it has: {", ".join(sorted(present)) or "nothing"}'
            )
    return {name: key for name, key in found.items() if key is not None}


def is_image(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether rows [N, ...] of this type are images: bytes in four axes, or three channels."""
    return len(shape) == 4 and (shape[-1] == 3 or dtype == np.uint8)


def stack_blocks(name: str, blocks: Iterable[np.ndarray], n_rows: int) -> np.ndarray:
    """Join blocks of rows into one stream, converting each so that memory peaks low.

    Args:
        name: array and where it is, for messages.
        blocks: arrays [n, ...] of one shape past the first axis and of any number type.
        n_rows: total rows of all blocks.

    Returns:
        float32 [n_rows, ...] with at least two axes.

    Raises:
        DataError: blocks that are not numbers, or differ in shape.
    """
    out, at = np.empty(0), 0
    for block in (to_stream(name, raw) for raw in blocks):
        if at == 0:
            out = np.empty((n_rows, *block.shape[1:]), block.dtype)
        if block.shape[1:] != out.shape[1:]:
            raise DataError(
                f'{name}: rows from {at} on have shape {list(block.shape[1:])}, those before '
                f'{list(out.shape[1:])}; all rows must have one shape'
            )
        out[at : at + len(block)] = block
        at += len(block)
    return out[:at]


def as_ends(name: str, values: np.ndarray) -> np.ndarray:
    """Return episode ends as int64 [E].

    Raises:
        DataError: they are not integers.
    """
    if values.dtype.kind not in 'iu':
        raise DataError(f'{name}: holds {values.dtype}; store episode ends as integers')
    return values.astype(np.int64)


def to_stream(name: str, block: np.ndarray) -> np.ndarray:
    """Convert rows of any number type to uint8 images or float32; no copy where none is needed.

    Raises:
        DataError: rows that are not numbers, or not RGB images.
    """
    if block.dtype.kind not in 'fiub':
        raise DataError(f'{name}: holds {block.dtype} where numbers are needed; use another key')
    if is_image(block.shape, block.dtype):
        return _to_image(name, block)
    columns = block[:, np.newaxis] if block.ndim == 1 else block
    return columns.astype(np.float32, copy=False)


def check_channels(name: str, shape: Sequence[int]) -> None:
    """Refuse images [N, H, W, C] that are not RGB."""
    if shape[-1] != 3:
        raise DataError(f'{name}: images have shape {list(shape[1:])}; store [H, W, 3] RGB')


def _to_image(name: str, block: np.ndarray) -> np.ndarray:
    check_channels(name, block.shape)
    with np.errstate(invalid='ignore'):
        image = block.astype(np.uint8, copy=False)
    if block.dtype != np.uint8 and not np.array_equal(image, block):
        raise DataError(
            f'{name}: image values are not all whole numbers in 0..255; '
            'scale and round them to 0..255'
        )
    return image
