"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

from diffusion_policy_rt.train.history import History

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)


def write_curves(path: Path, curves: Mapping[str, History]) -> None:
    """Draw the training and validation loss of every stage over its epochs."""
    figure, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves), 3.5), squeeze=False,
                                layout='constrained')
    for axis, (stage, history) in zip(axes[0], curves.items()):
        epochs = range(1, len(history.train) + 1)
        axis.plot(epochs, history.train, label='training')
        axis.plot(epochs, history.validation, label='validation (averaged weights)')
        axis.set(title=stage, xlabel='epoch', ylabel='loss', yscale='log')
        draw_scores(axis, history)
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_scores(axis: plt.Axes, history: History) -> None:
    """Draw the closed-loop scores, where there are any, against a scale on the right."""
    names = sorted({n for epoch in history.measures for n in epoch if n.startswith('score')})
    right = axis.twinx() if names else axis
    for i, name in enumerate(names):
        points = [(k, m[name]) for k, m in enumerate(history.measures, 1) if name in m]
        right.plot(*zip(*points), 'o-', ms=3, color=f'C{2 + i}', label=name)
    if names:
        right.set(ylabel='mean max coverage', ylim=(0, 1))
        right.axvline(history.best_epoch, color='#9a9a9a', lw=0.8, ls=':')
        right.legend(loc='lower right')
