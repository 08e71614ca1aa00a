"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

from diffusion_policy_rt.train.trainer import History

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
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
