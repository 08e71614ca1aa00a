"""Measure each form of a part on this machine, and choose."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from diffusion_policy_rt.engines.executed import summary
from diffusion_policy_rt.engines.onnx_engine import open_graph
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.train.outline import save_graph
from diffusion_policy_rt.train.quantize.forms import (
    FP32, Feed, Form, candidates, quantize, weight_bytes)

ROUNDS = 40
MAX_ERROR = 0.10
"""Relative error of a part's output above which a form is not considered."""
MARGIN = 0.75
"""A form replaces a more faithful one when it takes less than this share of its time."""


@dataclass(frozen=True)
class Trial:
    """What a form of a part turned out to be on this machine."""

    form: Form
    error: float
    """Root mean square of the difference of the outputs, relative to that of the outputs."""
    seconds: float
    """Median of one call."""
    bytes: int
    executed: str


def run(session: onnxruntime.InferenceSession, feeds: Collection[Feed]) -> np.ndarray:
    """Return the outputs for all inputs, [N, ...]."""
    return np.concatenate([session.run(None, dict(feed))[0] for feed in feeds])


def relative_error(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Return the root mean square of the difference, relative to the reference's."""
    return float(np.sqrt(np.mean((outputs - reference) ** 2) / np.mean(reference ** 2)))


def open_model(graph: onnx.ModelProto, threads: int) -> tuple[
        onnxruntime.InferenceSession, str]:
    """Load a graph that holds its weights; return it with the types that it executed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'graph.onnx'
        save_graph(graph, path)
        session, executed = open_graph(path, threads)
        return session, summary(executed)


def measure(part: str, graph: onnx.ModelProto, feeds: Sequence[Feed], threads: int,
            forms: Sequence[Form] | None = None) -> list[Trial]:
    """Measure forms of a part (default: all candidates), their calls taking turns.

    Every second of the recorded inputs calibrates; the error is that of the others.
    """
    made = [(form, quantize(graph, form, feeds[::2])) for form in forms or candidates(part)]
    opened = [open_model(model, threads) for _, model in made]
    held_out = feeds[1::2] or feeds
    reference = run(open_model(graph, threads)[0], held_out)
    times = take_turns([partial(s.run, None, dict(feeds[0])) for s, _ in opened], ROUNDS)
    return [Trial(form, relative_error(run(session, held_out), reference),
                  float(np.median(taken)), weight_bytes(model), executed)
            for (form, model), (session, executed), taken in zip(made, opened, times)]


def choose(part: str, trials: Sequence[Trial]) -> Trial:
    """Return the best 8-bit trial: the most faithful of those about as fast as the fastest.

    Forms that err too much, or that were asked for 8 bits and executed in others, are out.
    """
    sound = [t for t in trials if t.form != FP32 and t.error <= MAX_ERROR
             and t.executed == 'int8']
    if not sound:
        raise EngineError(f'{part}: no 8-bit form is faithful enough here; keep it in fp32 '
                          f'(--{part.partition("_")[0]} fp32)')
    fastest = min(t.seconds for t in sound)
    near = [t for t in sound if MARGIN * t.seconds <= fastest]
    return min(near, key=lambda t: t.error)
