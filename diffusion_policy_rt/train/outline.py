"""Graphs whose weights lie in files: an ONNX file itself holds 2 GB at most.

Weights are read one at a time where they are needed, and never all put into a graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

SMALL = 256
"""Bytes below which a tensor stays in the graph."""
FIELDS = ('raw_data', 'float_data', 'double_data', 'int32_data', 'int64_data', 'uint64_data',
          'external_data', 'data_location')
"""What tells where a tensor has its values."""


def read_outline(path: Path) -> onnx.ModelProto:
    """Return a graph whose tensors in files stay there: it names these by their whole paths."""
    graph = onnx.load(str(path), load_external_data=False)
    for initialiser in graph.graph.initializer:
        for entry in initialiser.external_data:
            if entry.key == 'location':
                entry.value = str(path.resolve().parent / entry.value)
    return graph


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph of any size; its weights go to a file beside it, `path` with `.weights`."""
    made, beside = onnx.ModelProto(), path.with_name(f'{path.name}.weights')
    made.CopyFrom(graph)
    with beside.open('wb') as file:
        for initialiser in made.graph.initializer:
            values = content(initialiser)
            if len(values) < SMALL:
                hold(initialiser, values)
                continue
            place(initialiser, beside.name, file.tell(), len(values))
            file.write(values)
    path.write_bytes(made.SerializeToString())


def place(initialiser: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make an initialiser refer to these bytes of a file."""
    _clear(initialiser)
    initialiser.data_location = TensorProto.EXTERNAL
    for key, value in (('location', location), ('offset', offset), ('length', length)):
        initialiser.external_data.add(key=key, value=str(value))


def hold(initialiser: onnx.TensorProto, values: bytes) -> None:
    """Put an initialiser's values into its graph."""
    _clear(initialiser)
    initialiser.raw_data = values


def _clear(initialiser: onnx.TensorProto) -> None:
    for field in FIELDS:
        initialiser.ClearField(field)


def content(initialiser: onnx.TensorProto) -> bytes:
    """Return the values as they lie in a file; 4-bit ones are packed."""
    if not uses_external_data(initialiser):
        return initialiser.raw_data or numpy_helper.to_array(initialiser).tobytes()
    told = ExternalDataInfo(initialiser)
    with open(told.location, 'rb') as file:
        file.seek(told.offset or 0)
        return file.read(-1 if told.length is None else told.length)


def array(initialiser: onnx.TensorProto) -> np.ndarray:
    """Return the values, wherever they lie; not those of 4 bits in a file."""
    if not uses_external_data(initialiser):
        return numpy_helper.to_array(initialiser)
    kind = onnx.helper.tensor_dtype_to_np_dtype(initialiser.data_type)
    return np.frombuffer(content(initialiser), kind).reshape(tuple(initialiser.dims))
