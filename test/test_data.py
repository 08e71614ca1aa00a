"""Reading demonstration data sets: every format gives the same streams and episodes."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data import Dataset, read_dataset

LENGTHS = (5, 7, 4)
ENDS = np.cumsum(LENGTHS)
N = int(ENDS[-1])
HEIGHT, WIDTH, FPS = 32, 48, 10
KEYS = {
    'front': ['img', 'observation.images.front'],
    'state': ['state', 'observation.state'],
    'action': ['action'],
}
# A video passes through YUV once, which moves a value by a few steps of 255; neighbouring
# frames and the channels of one frame differ by more.
VIDEO_TOLERANCE = 4
PUSHT = Path(__file__).parents[1] / '../shared/data/pusht'
VIDEO_KEY = 'observation.images.front'


def make_streams() -> dict[str, np.ndarray]:
    """Return img uint8 [N, H, W, 3], state float32 [N, 3], action float32 [N, 2]."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 40, WIDTH)[None, :, None] + np.linspace(0, 30, HEIGHT)[:, None, None]
    shade = np.arange(N)[:, None] * np.array([8, -8, 5]) + np.array([20, 150, 80])
    return {
        'img': (ramp + shade[:, None, None, :]).astype(np.uint8),
        'state': rng.normal(size=(N, 3)).astype(np.float32),
        'action': rng.normal(size=(N, 2)).astype(np.float32),
    }


STREAMS = make_streams()


def write_npz(root: Path) -> Path:
    root.mkdir()
    np.savez(root / 'images.npz', img=STREAMS['img'])
    np.savez(root / 'low.npz', state=STREAMS['state'], action=STREAMS['action'], episode_ends=ENDS)
    return root


def write_npz_file(root: Path) -> Path:
    np.savez(root.with_suffix('.npz'), **STREAMS, episode_ends=ENDS)
    return root.with_suffix('.npz')


def write_zarr(root: Path) -> Path:
    """Write as Diffusion Policy does: zarr format 2, images as float32 of 0..255."""
    arrays = {f'data/{key}': rows for key, rows in STREAMS.items()} | {'meta/episode_ends': ENDS}
    arrays['data/img'] = STREAMS['img'].astype(np.float32)
    group = zarr.open_group(str(root), mode='w', zarr_format=2)
    for key, rows in arrays.items():
        chunks = (3, *rows.shape[1:])
        group.create_array(key, shape=rows.shape, dtype=rows.dtype, chunks=chunks)[:] = rows
    return root


def write_zarr_zip(root: Path) -> Path:
    return Path(shutil.make_archive(str(root), 'zip', write_zarr(root)))


def write_nested_zarr_zip(root: Path) -> Path:
    write_zarr(root / 'pusht.zarr')
    return Path(shutil.make_archive(str(root), 'zip', root))


def write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', options={'movflags': 'faststart'}) as video:
        stream = video.add_stream('libx264', rate=FPS, options={'crf': '1'})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv444p'
        stream.codec_context.time_base = Fraction(1, FPS)
        for image in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        video.mux(stream.encode())


def replace_images(path: Path, cells: list[dict[str, Any]]) -> None:
    """Write other embedded images into a table."""
    table = pq.read_table(path)
    images = pa.array(cells, table.schema.field(VIDEO_KEY).type)
    pq.write_table(table.set_column(table.column_names.index(VIDEO_KEY), VIDEO_KEY, images), path)


def to_png(image: np.ndarray) -> dict[str, Any]:
    data = cv2.imencode('.png', image[..., ::-1])[1].tobytes()
    return {'bytes': data, 'path': 'frame.png'}


def write_table(path: Path, episodes: range, embed: bool) -> None:
    """Write the rows of `episodes` to one parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(N)[start_of(episodes[0]) : ENDS[episodes[-1]]]
    frame = np.concatenate([np.arange(LENGTHS[e]) for e in episodes])
    columns: dict[str, Any] = {
        'observation.state': list(STREAMS['state'][rows]),
        'action': list(STREAMS['action'][rows]),
        'timestamp': (frame / FPS).astype(np.float32),
        'episode_index': np.repeat(list(episodes), [LENGTHS[e] for e in episodes]),
        'index': rows,
    }
    if embed:
        columns[VIDEO_KEY] = [to_png(STREAMS['img'][row]) for row in rows]
    pq.write_table(pa.table(columns), path)


def start_of(episode: int) -> int:
    return int(ENDS[episode]) - LENGTHS[episode]


def write_info(root: Path, version: str, embed: bool, data_path: str, video_path: str) -> None:
    features = {
        VIDEO_KEY: {'dtype': 'image' if embed else 'video', 'shape': [HEIGHT, WIDTH, 3]},
        'observation.state': {'dtype': 'float32', 'shape': [3]},
        'action': {'dtype': 'float32', 'shape': [2]},
        'timestamp': {'dtype': 'float32', 'shape': [1]},
    }
    info = {
        'codebase_version': version,
        'fps': FPS,
        'chunks_size': 2,
        'total_episodes': len(LENGTHS),
        'data_path': data_path,
        'video_path': video_path,
        'features': features,
    }
    (root / 'meta').mkdir(parents=True)
    (root / 'meta/info.json').write_text(json.dumps(info))


def write_lerobot_v2(root: Path, version: str = 'v2.1', embed: bool = False) -> Path:
    """Write one table and one video per episode, two episodes per chunk."""
    data = 'data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet'
    video = 'videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4'
    write_info(root, version, embed, data, video)
    rows = [{'episode_index': e, 'length': n, 'tasks': ['x']} for e, n in enumerate(LENGTHS)]
    lines = [json.dumps(row) for row in rows]
    (root / 'meta/episodes.jsonl').write_text('\n'.join(lines) + '\n')
    for e in range(len(LENGTHS)):
        names = {'episode_chunk': e // 2, 'episode_index': e, 'video_key': VIDEO_KEY}
        write_table(root / data.format(**names), range(e, e + 1), embed)
        if not embed:
            write_video(root / video.format(**names), STREAMS['img'][start_of(e) : ENDS[e]])
    return root


def write_lerobot_v3(root: Path, embed: bool = False) -> Path:
    """Write episodes 0, 1 | 2 to two tables, and episodes 0 | 1, 2 to two videos."""
    data = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
    video = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
    write_info(root, 'v3.0', embed, data, video)
    write_table(root / data.format(chunk_index=0, file_index=0), range(0, 2), embed)
    write_table(root / data.format(chunk_index=0, file_index=1), range(2, 3), embed)
    (root / 'meta/episodes/chunk-000').mkdir(parents=True)
    columns = {
        'episode_index': [0, 1, 2],
        'data/chunk_index': [0, 0, 0],
        'data/file_index': [0, 0, 1],
        'dataset_from_index': [0, 5, 12],
        'dataset_to_index': [5, 12, 16],
        f'videos/{VIDEO_KEY}/chunk_index': [0, 0, 0],
        f'videos/{VIDEO_KEY}/file_index': [0, 1, 1],
        f'videos/{VIDEO_KEY}/from_timestamp': [0.0, 0.0, 0.7],
        f'videos/{VIDEO_KEY}/to_timestamp': [0.5, 0.7, 1.1],
    }
    pq.write_table(pa.table(columns), root / 'meta/episodes/chunk-000/file-000.parquet')
    if not embed:
        for file_index, rows in enumerate([slice(0, 5), slice(5, 16)]):
            names = {'video_key': VIDEO_KEY, 'chunk_index': 0, 'file_index': file_index}
            write_video(root / video.format(**names), STREAMS['img'][rows])
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    'npz folder': write_npz,
    'npz file': write_npz_file,
    'zarr': write_zarr,
    'zarr zip': write_zarr_zip,
    'nested zarr zip': write_nested_zarr_zip,
    'v2.0 png': lambda root: write_lerobot_v2(root, 'v2.0', embed=True),
    'v2.1 video': write_lerobot_v2,
    'v3.0 png': lambda root: write_lerobot_v3(root, embed=True),
    'v3.0 video': write_lerobot_v3,
}


@pytest.fixture(autouse=True)
def _write_every_chunk() -> Iterator[None]:
    with zarr.config.set({'array.write_empty_chunks': True}):
        yield


@pytest.mark.parametrize('form', WRITERS)
@pytest.mark.parametrize('seek_s', [0.05, 2.0])
def test_some_images_are_those_of_all(
    form: str, seek_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('diffusion_policy_rt.train.data.lerobot_video.SEEK_S', seek_s)
    monkeypatch.setattr('diffusion_policy_rt.train.data.zarr_store.BLOCK_ROWS', 4)
    path, keys = WRITERS[form](tmp_path / 'set'), {'front': KEYS['front']}
    frames = read_dataset(path, keys).streams['front']
    whole, rng = frames[:], np.random.default_rng(0)
    for count in (1, 4, 9):
        rows = rng.choice(N, (count, 2))
        np.testing.assert_array_equal(frames[rows], whole[rows])


def assert_refused(path: Path, *parts: str, keys: Any = KEYS) -> None:
    """Assert one line of error that holds all `parts`."""
    with pytest.raises(DataError) as caught:
        for stream in read_dataset(path, keys).streams.values():
            np.asarray(stream)
    message = str(caught.value)
    assert '\n' not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize('form', WRITERS)
def test_every_format_gives_the_same_data_set(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path / 'set')
    data = read_dataset(str(path), KEYS)
    assert data.episode_ends.dtype == np.int64
    assert data.episode_ends.tolist() == ENDS.tolist()
    assert data.streams['front'].dtype == np.uint8
    assert data.streams['front'].shape == STREAMS['img'].shape
    off = np.abs(data.streams['front'][:].astype(int) - STREAMS['img']).max()
    assert off <= (VIDEO_TOLERANCE if 'video' in form else 0)
    for name in ('state', 'action'):
        assert data.streams[name].dtype == np.float32
        np.testing.assert_array_equal(data.streams[name], STREAMS[name])
    assert data.rate_hz == (FPS if form.startswith('v') else None)
    assert str(path) in data.source
    assert data.stream_keys['front'] in KEYS['front']


def test_test_images_tell_frames_and_channels_apart() -> None:
    images = STREAMS['img'].astype(int)
    assert np.abs(np.diff(images, axis=0)).max(axis=(1, 2, 3)).min() > VIDEO_TOLERANCE
    assert np.abs(images - images[..., ::-1]).max(axis=(1, 2, 3)).min() > VIDEO_TOLERANCE


def test_real_pusht_starts_as_published() -> None:
    if not PUSHT.is_dir():
        pytest.skip(f'the Push-T data set is not at {PUSHT}')
    data = read_dataset(PUSHT, KEYS)
    assert data.streams['front'].shape == (25650, 96, 96, 3)
    assert len(data.episode_ends) == 206
    assert data.streams['action'][:2].tolist() == [[233, 71], [229, 83]]
    np.testing.assert_allclose(data.streams['state'][0, :3], [222, 97, 222.99382], atol=1e-4)


def small(streams: dict[str, np.ndarray], ends: list[int]) -> Dataset:
    return Dataset(streams, np.array(ends, np.int64), None, 'test set', {})


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_episodes_cut_the_rows_in_order(lengths: list[int], data: st.DataObject) -> None:
    ends = np.cumsum(lengths).tolist()
    rows = np.arange(ends[-1], dtype=np.float32)[:, None]
    whole = small({'x': rows}, ends)
    pieces = [rows[part] for part in whole.episodes()]
    assert [len(piece) for piece in pieces] == lengths
    np.testing.assert_array_equal(np.concatenate(pieces), rows)
    n = data.draw(st.integers(1, len(lengths)))
    assert list(whole.first(n).episodes()) == list(whole.episodes())[:n]
    assert len(whole.first(n).streams['x']) == sum(lengths[:n])


@pytest.mark.parametrize('n_episodes', [0, 3])
def test_first_refuses_a_count_out_of_range(n_episodes: int) -> None:
    with pytest.raises(DataError, match=f'first {n_episodes} episodes, but it has 2'):
        small({'x': np.zeros((4, 1), np.float32)}, [2, 4]).first(n_episodes)


@pytest.mark.parametrize('ends', [[2, 2, 4], [3, 1, 4], [0, 4]])
def test_ends_that_do_not_increase_are_refused(ends: list[int]) -> None:
    with pytest.raises(DataError, match='test set: episode . ends at row .*increase'):
        small({'x': np.zeros((4, 1), np.float32)}, ends)


def test_inconsistent_data_sets_are_refused() -> None:
    rows = np.zeros((4, 1), np.float32)
    with pytest.raises(DataError, match="stream 'y' has 3 rows.* ends at row 4"):
        small({'x': rows, 'y': rows[:3]}, [4])
    with pytest.raises(DataError, match='at least one episode'):
        small({'x': rows}, [])
    with pytest.raises(DataError, match='no stream was asked for'):
        small({}, [4])


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(value: float) -> None:
    rows = np.zeros((4, 2, 2), np.float32)
    rows[2:, 1, 0] = value
    with pytest.raises(DataError, match="stream 'pose' .*first in row 2"):
        small({'pose': rows}, [4])


def test_preferred_key_wins_and_one_axis_becomes_two(tmp_path: Path) -> None:
    np.savez(tmp_path / 'x.npz', a=np.arange(3), b=np.ones(3), episode_ends=[3])
    data = read_dataset(tmp_path, {'x': ['none', 'a', 'b']})
    assert data.stream_keys == {'x': 'a'}
    assert data.streams['x'].tolist() == [[0], [1], [2]]


@pytest.mark.parametrize('form', ['npz folder', 'zarr', 'v3.0 png'])
def test_a_missing_stream_lists_what_is_there(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path / 'set')
    assert_refused(path, "'wrist'", 'cam, eye', 'action', 'state', keys={'wrist': ['cam', 'eye']})


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, str(tmp_path), 'empty folder')
    (tmp_path / 'notes.txt').write_text('x')
    assert_refused(tmp_path, 'no data set', 'notes.txt')
    assert_refused(tmp_path / 'notes.txt', 'notes.txt', 'no data set')
    assert_refused(tmp_path / 'gone', 'gone', 'no such file or folder')


def test_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = write_npz_file(tmp_path / 'set')
    path.write_bytes(path.read_bytes()[:5000])
    assert_refused(path, str(path), 'cannot be read')


def test_ambiguous_or_incomplete_npz_is_refused(tmp_path: Path) -> None:
    root = write_npz(tmp_path / 'set')
    np.savez(root / 'more.npz', img=STREAMS['img'])
    assert_refused(root, "'img' is in both", 'images.npz', 'more.npz')
    (root / 'low.npz').unlink()
    (root / 'more.npz').unlink()
    assert_refused(root, "no array 'episode_ends'")
    np.savez(root / 'low.npz', episode_ends=ENDS / 2)
    assert_refused(root, 'low.npz, episode_ends', 'integers', keys={'front': ['img']})


@pytest.mark.parametrize(
    ('images', 'part'),
    [
        (np.full((2, 4, 4, 3), 0.5, np.float32), 'whole numbers'),
        (np.full((2, 4, 4, 3), 256.0), 'whole numbers'),
        (np.zeros((2, 3, 4, 4), np.uint8), '[3, 4, 4]'),
        (np.full((2, 4), 'text'), '<U4'),
    ],
)
def test_unusable_arrays_are_refused(images: np.ndarray, part: str, tmp_path: Path) -> None:
    np.savez(tmp_path / 'x.npz', img=images, episode_ends=[2])
    assert_refused(tmp_path, 'x.npz, img', part, keys={'front': ['img']})


def test_damaged_zarr_is_refused(tmp_path: Path) -> None:
    root = write_zarr(tmp_path / 'set')
    chunk = root / 'data/state/1.0'
    chunk.write_bytes(chunk.read_bytes()[:5])
    assert_refused(root, 'data/state', 'cannot be read')
    chunk.unlink()
    assert_refused(root, 'data/state', '1 of 6 chunks are missing')
    shutil.rmtree(root / 'meta/episode_ends')
    assert_refused(root, 'meta/episode_ends', 'cannot be read')


def test_zarr_is_the_same_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('diffusion_policy_rt.train.data.zarr_store.BLOCK_ROWS', 4)
    data = read_dataset(write_zarr(tmp_path / 'set'), KEYS)
    np.testing.assert_array_equal(data.streams['front'], STREAMS['img'])
    np.testing.assert_array_equal(data.streams['state'], STREAMS['state'])


def test_truncated_zarr_zip_is_refused(tmp_path: Path) -> None:
    path = write_zarr_zip(tmp_path / 'set')
    path.write_bytes(path.read_bytes()[:2000])
    assert_refused(path, str(path), 'damaged')


def edit_info(root: Path, **changes: Any) -> None:
    path = root / 'meta/info.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_lerobot_description_is_refused(tmp_path: Path) -> None:
    root = write_lerobot_v3(tmp_path / 'set', embed=True)
    edit_info(root, codebase_version='v1.6')
    assert_refused(root, 'info.json', "'v1.6'", 'v2.0, v2.1, v3.0')
    edit_info(root, codebase_version='v3.0', total_episodes=9)
    assert_refused(root, 'says 9 episodes', 'has 3')
    shutil.rmtree(root / 'meta/episodes')
    assert_refused(root, 'says 9 episodes', 'has 0')
    (root / 'meta/info.json').write_text('{')
    assert_refused(root, 'info.json', 'cannot be read')


def test_damaged_lerobot_table_is_refused(tmp_path: Path) -> None:
    root = write_lerobot_v2(tmp_path / 'set', embed=True)
    table = root / 'data/chunk-000/episode_000001.parquet'
    pq.write_table(pq.read_table(table).slice(1), table)
    assert_refused(root, str(table), '6 rows of episode 1', '7')
    pq.write_table(pq.read_table(table).drop('action'), table)
    assert_refused(root, str(table), "no column 'action'", keys={'action': ['action']})
    table.write_bytes(table.read_bytes()[:100])
    assert_refused(root, str(table), 'cannot be read')
    shutil.rmtree(root / 'data/chunk-000')
    assert_refused(root, 'episode_000000.parquet', 'is missing')


def test_wrong_feature_shape_and_depth_are_refused(tmp_path: Path) -> None:
    root = write_lerobot_v3(tmp_path / 'set', embed=True)
    edit_info(root, features={'action': {'dtype': 'float32', 'shape': [5]}})
    assert_refused(root, f'{root}, action', 'shape', keys={'action': ['action']})
    depth = {'dtype': 'image', 'shape': [4, 4, 1], 'info': {'is_depth_map': True}}
    edit_info(root, features={VIDEO_KEY: depth})
    assert_refused(root, VIDEO_KEY, 'depth map', keys={'front': [VIDEO_KEY]})


@pytest.mark.parametrize(
    ('cell', 'part'),
    [
        ({'bytes': b'no png', 'path': 'a.png'}, 'a.png is damaged'),
        ({'bytes': None, 'path': 'a.png'}, 'a.png is not embedded'),
    ],
)
def test_unusable_embedded_images_are_refused(
    cell: dict[str, Any], part: str, tmp_path: Path
) -> None:
    root = write_lerobot_v2(tmp_path / 'set', embed=True)
    replace_images(root / 'data/chunk-001/episode_000002.parquet', [cell] * 4)
    assert_refused(root, str(root), VIDEO_KEY, part)


@pytest.mark.parametrize(('n_small', 'part'), [(1, 'row 12 '), (4, 'row 12 ')])
def test_images_of_two_sizes_are_refused(n_small: int, part: str, tmp_path: Path) -> None:
    root = write_lerobot_v2(tmp_path / 'set', embed=True)
    cells = [to_png(image) for image in STREAMS['img'][12:]]
    cells[:n_small] = [to_png(np.zeros((8, 8, 3), np.uint8))] * n_small
    replace_images(root / 'data/chunk-001/episode_000002.parquet', cells)
    assert_refused(root, str(root), VIDEO_KEY, part)


def test_damaged_video_is_refused(tmp_path: Path) -> None:
    root = write_lerobot_v3(tmp_path / 'set')
    video = root / f'videos/{VIDEO_KEY}/chunk-000/file-001.mp4'
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    assert_refused(root, str(video))
    video.write_bytes(whole[:100])
    assert_refused(root, str(video), 'cannot be read')
    video.unlink()
    assert_refused(root, str(video), 'is missing')


def test_a_video_with_fewer_frames_than_rows_is_refused(tmp_path: Path) -> None:
    root = write_lerobot_v3(tmp_path / 'set')
    video = root / f'videos/{VIDEO_KEY}/chunk-000/file-001.mp4'
    write_video(video, STREAMS['img'][5:-1])
    assert_refused(root, str(video), 'lacks the frame of the row at 1.000 s')


def test_videos_of_two_sizes_are_refused(tmp_path: Path) -> None:
    root = write_lerobot_v3(tmp_path / 'set')
    video = root / f'videos/{VIDEO_KEY}/chunk-000/file-001.mp4'
    with av.open(str(video), 'w') as out:
        stream = out.add_stream('libx264', rate=FPS)
        stream.width = stream.height = 16
        out.mux(stream.encode(av.VideoFrame(16, 16, 'yuv420p')))
        out.mux(stream.encode())
    assert_refused(root, str(video), '16x16', f'{WIDTH}x{HEIGHT}')


@pytest.mark.parametrize(
    ('form', 'module'),
    [
        ('zarr', 'zarr'),
        ('v3.0 png', 'pyarrow.parquet'),
        ('v3.0 png', 'cv2'),
        ('v3.0 video', 'av'),
    ],
)
def test_a_missing_package_names_the_extra(
    form: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = WRITERS[form](tmp_path / 'set')
    monkeypatch.setitem(sys.modules, module, None)
    assert_refused(path, f"'{module}'", 'pip install diffusion_policy_rt[train]')
