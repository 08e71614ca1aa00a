#!/usr/bin/env python3
"""What reading images in a stream costs beside a step of training: both in seconds of CPU.

    tools/loader_check.py --data DIR --recipe pusht_small --stream 0.1 --steps 20

Of the recipe's first stage: `pretrain` of the first camera, or the whole policy from pixels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.feed import Feed, Whole
from diffusion_policy_rt.train.recipe import load_recipe
from diffusion_policy_rt.train.run import Training, open_data
from diffusion_policy_rt.train.trainer import Trainer


def measure(trainer: Trainer, steps: int) -> dict[str, float]:
    """Read the pools of `steps` steps, then train on the images of the first one, held."""
    feed = trainer.feed
    assert isinstance(feed, Feed)
    with feed:
        began = time.process_time()
        for step in range(steps):
            feed.advance(step)
        reading, read, held = time.process_time() - began, feed.read, feed.held_bytes
    objective, trainer.feed = trainer.objective, None
    objective.images = Whole({name: frames[:] for name, frames in  # type: ignore[attr-defined]
                              feed._images.items()}, trainer.world.device)
    trainer.train_step()
    began = time.process_time()
    for _ in range(steps):
        trainer.train_step()
    training = (time.process_time() - began) / steps
    per_image = reading / read
    return {'images_read': read, 'images_per_cpu_s': 1 / per_image, 'held_bytes': held,
            'reading_a_batch_cpu_s': per_image * trainer.how.batch_size,
            'training_a_batch_cpu_s': training}


def main() -> None:
    """Run, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', required=True)
    parser.add_argument('--recipe', default='pusht_small')
    parser.add_argument('--stream', type=float, default=0.1, help='gigabytes')
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--max-episodes', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(args.recipe, 0, args.max_episodes)

    def run(trainer: Trainer, _: str) -> None:
        print(json.dumps({'data': Path(args.data).name, **measure(trainer, args.steps)}))
        raise SystemExit

    with tempfile.TemporaryDirectory() as out, mock.patch.object(Trainer, 'run', run):
        made = Training(recipe, open_data(recipe, [args.data]), Path(out), 0,
                        World(0, 1, torch.device('cpu')), stream=1e9 * args.stream)
        made.run()


if __name__ == '__main__':
    main()
