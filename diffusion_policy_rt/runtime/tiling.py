"""The tiles of all cameras of a policy: who may use them, by which rule, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffusion_policy_rt.runtime.frame import scaled
from diffusion_policy_rt.runtime.ports import Engine, Staged, StagedEngine
from diffusion_policy_rt.runtime.tiles import COUNTS, LEAST, TiledEncoder, TileRule
from diffusion_policy_rt.spec import CameraSpec, PolicySpec

PROOFS = 8
"""Changes of an image after which an encoder must give the bits of encoding it whole."""


class Tiling:
    """Encodes each camera's images by its rule; whole until `prove` has looked at the engine."""

    def __init__(self, spec: PolicySpec, engine: Engine) -> None:
        self._spec, self._engine = spec, engine
        self._encoders: dict[str, TiledEncoder] = {}
        self.exact: dict[str, bool] = {}
        """Per camera whose encoder has stages: whether parts have the bits of the whole."""
        self.least = LEAST
        """Pixels of an image below which no part of it is encoded; counts from `prove` on."""
        self._rules = {camera.name: TileRule() for camera in spec.cameras}

    @property
    def rules(self) -> Mapping[str, TileRule]:
        """The rule of each camera; a camera whose rule is another than before is forgotten."""
        return self._rules

    @rules.setter
    def rules(self, rules: Mapping[str, TileRule]) -> None:
        for name, encoder in self._encoders.items():
            if rules[name] != self._rules[name]:
                encoder.rule = rules[name]
                encoder.clear()
        self._rules = dict(rules)

    def prove(self) -> None:
        """Find the cameras whose encoders the engine runs in stages, and whether exactly."""
        if not isinstance(self._engine, StagedEngine):
            return
        for camera in self._spec.cameras:
            staged = self._engine.staged(camera.name)
            if staged is not None:
                self._encoders[camera.name] = self._make(camera, staged, self._rules[camera.name])
                self.exact[camera.name] = proven(self._make(camera, staged, TileRule(True)),
                                                 self._engine, camera)

    def _make(self, camera: CameraSpec, staged: Staged, rule: TileRule) -> TiledEncoder:
        return TiledEncoder(camera, staged,
                            lambda image: self._engine.encode(camera.name, image), rule,
                            self.least)

    def encode(self, camera: str, pixels: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the latent [L] of an image, uint8 [h, w, 3] of `frame.window`."""
        encoder, rule = self._encoders.get(camera), self._rules[camera]
        if encoder is None or not rule.tiles or not (self.exact[camera] or rule.threshold):
            return self._engine.encode(camera, scaled(pixels, self._spec.camera(camera)))
        return encoder.encode(pixels, stamp_ns)

    def clear(self) -> None:
        """Forget all images; counts stand."""
        for encoder in self._encoders.values():
            encoder.clear()

    def figures(self) -> dict[str, object]:
        """Return what is told of each camera: its images by kind, and the tiles reused."""
        told: dict[str, object] = {}
        for name, encoder in self._encoders.items():
            told |= {f'tiles.{name}.{kind}': encoder.counts[kind] for kind in COUNTS}
            told[f'tiles.{name}.exact'] = self.exact[name]
            told[f'tiles.{name}.hit_ratio'] = (
                encoder.reused / encoder.tiles if encoder.tiles else float('nan'))
            told[f'tiles.{name}.drift'] = encoder.drift
            told[f'tiles.{name}.age_s'] = encoder.age_ns / 1e9
        return told


def proven(encoder: TiledEncoder, engine: Engine, camera: CameraSpec) -> bool:
    """Whether latents by parts have the bits of those of whole images, on random changes."""
    rng, (rows, columns) = np.random.default_rng(0), camera.input_size
    image = rng.integers(0, 256, (rows, columns, 3), np.uint8)
    encoder.encode(image, 0)
    for _ in range(PROOFS):
        top, left = rng.integers(rows), rng.integers(columns)
        part = image[top:top + 1 + rows // 4, left:left + 1 + columns // 4]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
        whole = engine.encode(camera.name, scaled(image, camera))
        if not np.array_equal(encoder.encode(image, 0), whole):
            return False
    return True
