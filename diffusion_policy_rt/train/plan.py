"""What a transformer of a given size needs of each GPU, and how long a step takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffusion_policy_rt.errors import DprtError

BYTES = {'float32': 4, 'bfloat16': 2}
UTILISATION, LINK = 0.4, 300e9
FLOPS: Mapping[int, tuple[str, float]] = {
    40: ('A100', 312e12), 80: ('H100', 989e12), 141: ('H200', 989e12)}
SOURCES = {
    'weights, gradients, moments': '4 + 4 + 8 bytes per parameter: AdamW in float32 '
                                   '(Rajbhandari et al. 2020, section 3)',
    'average': '4 bytes per parameter',
    'activations': 'what the layers of model/transformer.py keep for the backward pass, counted; '
                   'checked in test_plan.py',
    'gathered': 'FSDP2 holds two blocks of weights, and one of gradients in float32',
    'operations': '6 per parameter and token, 8 when recomputed (Kaplan et al. 2020, section 2.1)',
    'peak': 'dense, NVIDIA data sheets: bfloat16 312 (A100) and 989 (H100, H200) TFLOP/s; '
            'float32 a sixteenth of it',
    'utilisation': f'{UTILISATION}: Llama 3 reports 0.38 to 0.43 (Dubey et al. 2024, table 4)',
    'link': f'{LINK / 1e9:.0f} GB/s per GPU: two thirds of the 450 of NVLink 4 in one direction; '
            'an assumption, unmeasured here',
}


@dataclass(frozen=True)
class Shape:
    """A transformer denoiser of `model.transformer`: its blocks, and the tokens they see."""

    width: int
    layers: int
    heads: int
    horizon: int = 16
    memory: int = 3

    @property
    def per_block(self) -> int:
        """Parameters of a block: two attentions, two linear layers, three norms."""
        return 16 * self.width**2 + 19 * self.width

    @property
    def parameters(self) -> int:
        """Parameters of the blocks and of the memory's two linear layers."""
        return self.layers * self.per_block + 8 * self.width**2

    def kept(self, item: int) -> int:
        """Return the bytes that a block keeps per sample, activations of `item` bytes.

        19 vectors of each action: 4 the block's input and its norms, 4 queries, keys and values
        of itself, 1 query of the memory, 2 what attention gave, 8 between the linear layers.
        Residuals, and what norms keep, stay float32.
        """
        t, s, w = self.horizon, self.memory, self.width
        attention = self.heads * t * (t + s)
        return t * w * (3 * 4 + 16 * item) + 2 * s * w * item + attention * (4 + item % 4)


def shape_of(parameters: float, horizon: int = 16, memory: int = 3) -> Shape:
    """Return a transformer of about so many parameters: width 128 times its depth."""
    width = max(64, round((8 * parameters) ** (1 / 3) / 64) * 64)
    layers = max(1, round((parameters - 8 * width**2) / (16 * width**2 + 19 * width)))
    return Shape(width, layers, width // 64, horizon, memory)


@dataclass(frozen=True)
class Use:
    """How the transformer is trained."""

    gpus: int
    batch: int
    """Samples per step, over all GPUs."""
    shard: bool
    precision: str = 'bfloat16'
    accumulate: int = 1
    recompute: bool = False
    distil: bool = False
    """With a teacher, and a critic that is trained too."""


def memory(shape: Shape, use: Use) -> dict[str, float]:
    """Return the bytes of each kind that one GPU holds at the peak of a step."""
    item, trained = BYTES[use.precision], 2 if use.distil else 1
    share = shape.parameters / (use.gpus if use.shard else 1)
    samples = -(-use.batch // (use.gpus * use.accumulate))
    full = shape.kept(item) * samples
    inputs = 4 * shape.horizon * shape.width * samples
    made = {
        'weights': 4 * share * (trained + use.distil), 'gradients': 4.0 * share,
        'moments': 8 * share * trained, 'average': 4 * share,
        'activations': float(shape.layers * inputs + full if use.recompute
                             else shape.layers * full),
        'gathered': _gathered(shape, use, item)}
    return made | {'total': sum(made.values())}


def _gathered(shape: Shape, use: Use, item: int) -> float:
    """Return the bytes of weights that are there for computing only."""
    if use.shard:
        return shape.per_block * (2.0 * item + 4)
    return float(shape.parameters * item) if item != 4 else 0.0  # autocast's copies


def step_seconds(shape: Shape, use: Use, peak: float) -> float:
    """Return the time of one step: computing or exchanging, whichever takes longer."""
    tokens = use.batch * shape.horizon / use.gpus
    passes = (8 if use.recompute else 6) + 2 * use.distil
    speed = peak * UTILISATION / (1 if use.precision == 'bfloat16' else 16)
    computing = passes * shape.parameters * tokens / speed
    item = BYTES[use.precision] if use.shard else 4
    exchanged = shape.parameters * (2 * item * use.accumulate + 4) * (1 - 1 / use.gpus)
    return max(computing, exchanged / LINK)


def parse_gpus(text: str) -> tuple[int, float]:
    """Return the number of GPUs and the bytes of each, of `8x80GB`."""
    count, _, size = text.lower().removesuffix('gb').partition('x')
    if not (count.isdigit() and size.isdigit() and int(count) and int(size)):
        raise DprtError(f'--gpus {text}: give their number and memory, as in 8x80GB')
    return int(count), int(size) * 1e9


def parse_count(text: str) -> float:
    """Return a number of parameters, of `20B`, `300M` or digits."""
    unit = {'K': 1e3, 'M': 1e6, 'B': 1e9}.get(text[-1:].upper())
    try:
        count = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        count = 0.0
    if not 1e5 <= count <= 1e13:
        raise DprtError(f'--params {text}: give a number from 100K to 10000B, as in 300M or 20B')
    return count


def peak_of(size: float) -> tuple[str, float]:
    """Return the GPU that has so much memory [bytes], and its operations per second."""
    return min(FLOPS.items(), key=lambda entry: abs(entry[0] - size / 1e9))[1]
