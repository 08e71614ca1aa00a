"""Engines that look into a policy: what its networks are given, what one changed layer does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.onnx_engine import OnnxEngine
from diffusion_policy_rt.train.quantize.choose import open_model
from diffusion_policy_rt.train.quantize.forms import Feed


class Recorder(OnnxEngine):
    """Keeps the inputs of every network, at the noise levels that the sampler visits."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, whole=True)
        self.feeds: dict[str, list[Feed]] = {part: [] for part in self.executed}

    def run(self, part: str, feed: Feed) -> np.ndarray:
        """Run a network, and keep its inputs."""
        self.feeds[part].append(feed)
        return super().run(part, feed)


class Patched(OnnxEngine):
    """A bundle's engine of which one network at a time is another graph."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, whole=True)
        self._own = dict(self.sessions)

    def put(self, part: str, graph: onnx.ModelProto) -> None:
        """Run `graph` in place of the part, and the bundle's own graphs otherwise."""
        self.sessions = {**self._own, part: open_model(graph, 1)[0]}


def thin(feeds: Sequence[Feed], count: int) -> list[Feed]:
    """Return at most `count` of the inputs, spread evenly."""
    picks = np.unique(np.linspace(0, len(feeds) - 1, min(count, len(feeds))).astype(int))
    return [feeds[i] for i in picks]
