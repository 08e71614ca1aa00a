"""Training windows: for each control step, the rows of its observations and of its chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.spec import PolicySpec


@dataclass(frozen=True)
class Windows:
    """Row numbers of each window; the ends of an episode are repeated, never crossed."""

    observed: np.ndarray
    """int64 [W, n_obs], oldest first."""
    acted: np.ndarray
    """int64 [W, horizon]; column n_obs - 1 is the row of the newest observation."""


def make_windows(episode_ends: np.ndarray, n_obs: int, horizon: int) -> Windows:
    """Make one window per control step of every episode (Chi et al. 2023, padding included)."""
    ends = np.asarray(episode_ends)
    starts = np.concatenate(([0], ends[:-1]))
    rows = np.arange(ends[-1])[:, None]
    first = np.repeat(starts, ends - starts)[:, None]
    last = np.repeat(ends - 1, ends - starts)[:, None]
    back = np.arange(1 - n_obs, 1)
    ahead = np.arange(horizon) - (n_obs - 1)
    return Windows(np.clip(rows + back, first, last), np.clip(rows + ahead, first, last))


def chunks(windows: Windows, actions: np.ndarray, states: np.ndarray,
           reference: np.ndarray | None) -> np.ndarray:
    """Gather chunks float32 [W, H, A]; `reference` are the state columns to count them from."""
    gathered = actions[windows.acted]
    if reference is not None:
        gathered = gathered - states[windows.observed[:, -1]][:, None, reference]
    return gathered.astype(np.float32)


def split_episodes(episode_ends: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Return a bool mask [N] of the rows kept for validation: whole episodes, at random."""
    count = len(episode_ends)
    kept = round(count * ratio)
    chosen = np.random.default_rng(seed).permutation(count)[:kept]
    return per_row(np.isin(np.arange(count), chosen), episode_ends)


def per_row(values: np.ndarray, episode_ends: np.ndarray) -> np.ndarray:
    """Repeat each episode's value [E] for all of its rows, [N]."""
    return np.repeat(values, np.diff(episode_ends, prepend=0))


def condition_rows(spec: PolicySpec, latents: dict[str, np.ndarray], states: np.ndarray,
                   windows: Windows) -> np.ndarray:
    """Join each window's latents and normalised states: float32 [W, observed_dim]."""
    parts = [latents[camera.name] for camera in spec.cameras] + [spec.state.normalise(states)]
    rows = np.concatenate(parts, axis=-1).astype(np.float32)
    return rows[windows.observed].reshape(len(windows.observed), -1)
