"""One process of a sharded run, and how the tests start several."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from fakes import KEYPOINT_MLP, TRANSFORMER, stirred, tiny_spec

ROWS = 72


def start(size, out, **options):
    """Start `size` processes of one run; return them. `options` are `main`'s or `distil`'s."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = {**os.environ, 'WORLD_SIZE': str(size), 'MASTER_ADDR': '127.0.0.1',
              'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1',
              'PYTHONPATH': os.pathsep.join([str(Path(__file__).parent.parent), *sys.path[:1],
                                             os.environ.get('PYTHONPATH', '')])}
    return [subprocess.Popen(
        [sys.executable, __file__, json.dumps({'out': str(out), **options})],
        env={**common, 'RANK': str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True) for rank in range(size)]


def finish(processes, timeout=120):
    """Wait for all; return each one's exit code, and what it said."""
    said = [p.communicate(timeout=timeout) for p in processes]
    return [(p.returncode, out, error) for p, (out, error) in zip(processes, said)]


def results(ended):
    """Return what each process printed; the run must have ended well."""
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    return [json.loads(out.splitlines()[-1]) for _, out, _ in ended]


def objective(building=None):
    """Return the objective of all these runs: a tiny transformer on random chunks.

    Its policy is built in the context `building`, with the weights that it then has.
    """
    import torch

    from diffusion_policy_rt.model.policy import Policy
    from diffusion_policy_rt.train.objectives import LatentObjective

    spec, rng = tiny_spec(), np.random.default_rng(0)
    torch.manual_seed(0)
    with building or contextlib.nullcontext():
        policy = Policy(spec, TRANSFORMER)
    if building is None:
        stirred(policy.denoiser)
    chunks = rng.standard_normal((ROWS, 8, 2)).astype(np.float32)
    return LatentObjective(
        policy, rng.standard_normal((ROWS, spec.cond_dim), np.float32), chunks,
        np.arange(ROWS) >= 64, np.ones(ROWS, bool), np.full(spec.cond_dim, 0.01), how(),
        torch.device('cpu'))


def streamed(world):
    """Return an objective of pixels, and what brings them: eight images of a lane at a time."""
    import torch

    from diffusion_policy_rt.model.policy import Policy
    from diffusion_policy_rt.train.data.frames import Held
    from diffusion_policy_rt.train.feed import Feed
    from diffusion_policy_rt.train.objectives import PixelObjective
    from diffusion_policy_rt.train.order import PooledOrder
    from diffusion_policy_rt.train.windows import make_windows

    spec, rng, ends = tiny_spec(crop=(10, 14)), np.random.default_rng(0), np.array([17, 64, ROWS])
    torch.manual_seed(0)
    images = {'front': Held(rng.integers(0, 256, (ROWS, 12, 16, 3), dtype=np.uint8))}
    observed, held_out = make_windows(ends, 2, 8).observed, np.arange(ROWS) >= 64
    order = PooledOrder(np.arange(64), how().batch_size, 3, ends, 1)
    feed = Feed(images, observed, order, how().epochs * order.per_epoch, world)
    return PixelObjective(
        Policy(spec, KEYPOINT_MLP), feed, rng.standard_normal((ROWS, 3)), observed,
        rng.standard_normal((ROWS, 8, 2)).astype(np.float32), held_out, how(), world.device), feed


def how(epochs=4):
    """Return how they are optimised: two steps an epoch."""
    from diffusion_policy_rt.train.recipe import Training
    return Training(epochs=epochs, batch_size=32, learning_rate=1e-3, warmup_steps=2)


def task(world):
    """Return a stand-in for a distillation: one network teaches another of its kind."""
    from diffusion_policy_rt.model.policy import make_denoiser
    from diffusion_policy_rt.train.distill.methods import METHODS
    from diffusion_policy_rt.train.distill.networks import Networks
    from diffusion_policy_rt.train.distill.onedp import OneDPOptions

    class Task:
        def __init__(self):
            made = objective()
            self.spec, self.train_rows = tiny_spec(), made.train_rows
            self.module, teacher = (stirred(make_denoiser(
                self.spec, TRANSFORMER['denoiser'])) for _ in range(2))
            self.teacher = world.place(teacher.requires_grad_(False), trained=False)
            self.chunks, self.observed = made.chunks, made.observed

        def loss_of(self, student, average):
            critic = stirred(make_denoiser(
                self.spec, {**TRANSFORMER['denoiser'], 'stop_time': True}))
            return METHODS['onedp-s'].make(Networks(
                student, average, self.spec.precond, self.teacher, self.spec.precond,
                critic), OneDPOptions(student_every=2))

        def batch(self, rows, rng):
            return self.chunks[rows], self.observed[rows]

        def measure(self, module):
            import torch
            with torch.no_grad():
                out = module(self.chunks[:4], torch.ones(4), self.observed[:4])
            return {'energy_1': float(out.square().mean())}

    return Task()


def tear(step):
    """Die in the middle of writing the checkpoint of a step: its files are there, but for one."""
    from diffusion_policy_rt.train import shards
    save = shards.dcp.save

    def torn(states, checkpoint_id):
        save(states, checkpoint_id=checkpoint_id)
        if checkpoint_id.name == f'{step:09d}':
            (checkpoint_id / shards.COMPLETE).unlink()
            os._exit(9)

    shards.dcp.save = torn


def main(out, distil=False, kill=(-1, -1), stop=-1, built=False, stream=False, torn=-1,
         **strategy):
    """Run to the end; at step kill[1] process kill[0] dies, at step `stop` all end in order.

    Checkpoint `torn` is never finished.
    """
    tear(torn)
    import torch

    from diffusion_policy_rt.errors import DprtError
    from diffusion_policy_rt.train.distill.trainer import DistillTrainer
    from diffusion_policy_rt.train.distributed import Strategy, join
    from diffusion_policy_rt.train.trainer import Trainer

    torch.set_num_threads(1)
    world = join(Strategy(**strategy))
    given, feed = streamed(world) if stream else (
        task(world) if distil else objective(world.building() if built else None), None)
    run = given, how(), world, 3, Path(out) / 'policy.ckpt', 'run'
    made = DistillTrainer(*run) if distil else Trainer(*run, feed=feed)
    step, taken = made.train_step, []

    def watched():
        if (world.rank, made.step) == tuple(kill):
            os._exit(9)
        if made.step == stop:
            raise KeyboardInterrupt
        taken.append(made.step)
        return step()

    made.train_step = watched
    try:
        whole = made.run('test')
    except DprtError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        whole = None
    if whole is not None and world.leads:
        torch.save(whole.state_dict(), Path(out) / 'whole.pt')
    world.leave()
    held = sum(getattr(p, 'to_local', lambda p=p: p)().numel()
               for p in made.module.parameters())
    print(json.dumps({'train': made.history.train, 'validation': made.history.validation,
                      'steps': taken,
                      'held': held, 'all': sum(p.numel() for p in made.module.parameters())}))


def distillation(world, out, teacher, data, recipe):
    """Distil a bundle as `dprt distill` does.

    Returns the run, its student, and whether teacher, student and critic were each spread
    while they were built.
    """
    from diffusion_policy_rt.engines.bundle import read_bundle
    from diffusion_policy_rt.train.distill.recipe import load_distill_recipe
    from diffusion_policy_rt.train.distill.run import Distillation
    from diffusion_policy_rt.train.sharding import is_spread

    run = Distillation(read_bundle(teacher), load_distill_recipe(recipe, 'onedp-s'), [data],
                       Path(out), 0, world)
    critic = run.loss_of(run.module, run.module).critic
    spread = [is_spread(net) for net in (run.teacher.denoiser, run.module, critic)]
    return run, run.run(), spread


def distil(out, teacher, data, recipe, **strategy):
    """Distil a bundle in this process and its peers."""
    import torch

    from diffusion_policy_rt.train.distributed import Strategy, join

    torch.set_num_threads(1)
    world = join(Strategy(**strategy))
    run, student, spread = distillation(world, out, teacher, data, recipe)
    if world.leads:
        torch.save(student.state_dict(), Path(out) / 'whole.pt')
    world.leave()
    print(json.dumps({'train': run.history.train, 'validation': run.history.validation,
                      'spread': spread}))


if __name__ == '__main__':
    told = json.loads(sys.argv[1])
    (distil if 'teacher' in told else main)(**told)
