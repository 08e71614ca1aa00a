"""The checkpoints of the golden files, drawn anew."""

import functools
import json
from pathlib import Path

from golden import drawn
from safetensors.numpy import save_file


@functools.cache
def cases():
    """Return LeRobot's cases by name."""
    return _read('lerobot.json')


@functools.cache
def originals():
    """Return the original code's cases by name."""
    return _read('original.json')


def _read(name):
    return json.loads((Path(__file__).parent / name).read_text())['cases']


def features(case):
    """Return the features of the case's inputs and its action, by key."""
    config = case['files']['config.json']
    return {**config['input_features'], **config['output_features']}


def write(case, folder):
    """Write the checkpoint as LeRobot did; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in case['files'].items():
        (folder / name).write_text(json.dumps(data))
        for step in data.get('steps', ()):
            if 'state_file' in step:
                stats = drawn.statistics(features(case))
                save_file({f'{key}.{name}': value for key, of in stats.items()
                           for name, value in of.items()}, folder / step['state_file'])
    save_file({name: drawn.weight(name, shape) for name, shape in case['shapes'].items()
               if not name.endswith(('pos_grid', 'num_batches_tracked'))},
              folder / 'model.safetensors')
    return folder
