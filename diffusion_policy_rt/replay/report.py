"""From a recorded run to a report: figures, pictures, and the trace as JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from diffusion_policy_rt.ros.bag import read_bag
from diffusion_policy_rt.replay.pictures import COLUMNS, strip, write_picture
from diffusion_policy_rt.ros.convert import image_to_rgb
from diffusion_policy_rt.runtime.trace import Rung, Tick, read_values, summarise, write_lines
from diffusion_policy_rt.sim.tasks import TASKS

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

MEASURES = {task.measure for task in TASKS.values()}
COLOURS = {Rung.FRESH: '#2a9d8f', Rung.FEWER: '#8ab17d', Rung.CACHED: '#e9c46a',
           Rung.CHUNK: '#457b9d', Rung.HOLD: '#f4a261', Rung.STOP: '#9a9a9a'}


@dataclass
class Recording:
    """What a bag of the demo holds. Times are in seconds since the first tick."""

    ticks: list[Tick] = field(default_factory=list)
    tick_times: list[float] = field(default_factory=list)
    coverage: list[tuple[float, float]] = field(default_factory=list)
    """Time and progress; that of Push-T is the coverage."""
    episodes: list[dict[str, Any]] = field(default_factory=list)
    episode_times: list[float] = field(default_factory=list)
    pictures: list[tuple[float, np.ndarray]] = field(default_factory=list)


def read_recording(bag: Path, picture_s: float = 2.5) -> Recording:
    """Read a demo's bag, keeping one picture every `picture_s` seconds."""
    recording, start, last = Recording(), None, -np.inf
    for topic, stamp_ns, message in read_bag(bag):
        start = stamp_ns if start is None else start
        t = (stamp_ns - start) / 1e9
        if topic.endswith('/timing'):
            recording.ticks.append(read_values(message.data))
            recording.tick_times.append(t)
        elif topic.endswith(tuple(f'/{measure}' for measure in MEASURES)):
            recording.coverage.append((t, message.data))
        elif topic.endswith('/episode'):
            recording.episodes.append(json.loads(message.data))
            recording.episode_times.append(t)
        elif topic.endswith('/image_raw') and t - last >= picture_s:
            recording.pictures.append((t, image_to_rgb(message)))
            last = t
    return recording


def write_report(folder: Path, rate: float, deadline: float) -> dict[str, Any]:
    """Write trace.jsonl, timeline.png, episodes.png and summary.json of `folder`/bag.

    Returns the figures of `dprt demo --json`.
    """
    recording = read_recording(folder / 'bag')
    with (folder / 'trace.jsonl').open('w') as file:
        write_lines(recording.ticks, file)
    write_timeline(folder / 'timeline.png', recording, deadline)
    write_episodes(folder / 'episodes.png', recording)
    result = {**summarise(recording.ticks), 'rate_hz': rate, 'deadline_s': deadline,
              'episodes': recording.episodes, 'report': str(folder)}
    (folder / 'summary.json').write_text(json.dumps(result, indent=1) + '\n')
    return result


def write_timeline(path: Path, recording: Recording, deadline: float) -> None:
    """Draw latency against the deadline, the rung of each tick, and the progress, over time."""
    figure, (latency, rungs, coverage) = plt.subplots(
        3, 1, figsize=(11, 7), sharex=True, height_ratios=(3, 1, 2), layout='constrained')
    times, ticks = np.array(recording.tick_times), recording.ticks
    left = deadline - np.array([tick.slack_s for tick in ticks])
    latency.plot(times, 1e3 * left, '.', ms=3, label='tick to publish', color='#264653')
    latency.plot(times, [1e3 * t.stamp_to_publish_s for t in ticks], '.', ms=3, color='#2a9d8f',
                 label='image stamp to publish')
    latency.axhline(1e3 * deadline, color='#e63946', lw=1, label='deadline')
    latency.set(ylabel='ms', yscale='log')
    latency.legend(loc='upper right', ncols=3)
    for rung in Rung:
        chosen = [t for t, tick in zip(times, ticks) if tick.rung == rung]
        rungs.eventplot(chosen or [np.nan], lineoffsets=rung, colors=COLOURS[rung])
    rungs.set(yticks=list(Rung), yticklabels=[r.name.lower() for r in Rung])
    rungs.invert_yaxis()
    if recording.coverage:
        coverage.plot(*zip(*recording.coverage), color='#264653')
    for t in recording.episode_times:
        coverage.axvline(t, color='#9a9a9a', lw=1)
    coverage.axhline(0.95, color='#2a9d8f', lw=1, ls='--')
    coverage.set(ylabel='progress', xlabel='s', ylim=(0, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_episodes(path: Path, recording: Recording) -> None:
    """Write one row of camera pictures per episode."""
    rows, start = [], 0.0
    for end, episode in zip(recording.episode_times, recording.episodes):
        pictures = [rgb for t, rgb in recording.pictures if start <= t < end]
        start = end
        if pictures:
            shown = [np.kron(p, np.ones((2, 2, 1), np.uint8)) for p in pictures[:COLUMNS]]
            rows.append(strip(shown, f'seed {episode["seed"]}: score '
                                     f'{episode["max_coverage"]:.2f}'))
    if rows:
        write_picture(path, np.vstack(rows))
