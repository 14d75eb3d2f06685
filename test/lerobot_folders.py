"""LeRobot folders as others write them, made with pyarrow and PyAV alone: a robot in degrees."""

from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.embodiment import ActionSpec, Camera, CommandSpec, Embodiment, Gripper

FPS = 30
NAMES = ['pan.pos', 'lift.pos', 'jaw.pos']
JOINTS = ('pan', 'lift', 'none_1', 'none_2', 'none_3', 'none_4')
SIZE = (24, 32)  # of an image
KEYS = {
    'cameras': {'front': 'observation.images.top'},
    'state': {
        'pan': {'at': 'pan.pos', 'scale': 0.5},
        'lift': {'at': 1, 'offset': -1.0},
        **{name: {'constant': 0} for name in JOINTS[2:]},
        'gripper_opening': {'at': 'jaw.pos', 'scale': -0.01, 'offset': 1.0},
    },
    'action': {
        'pan': {'at': 'pan.pos', 'scale': 0.5},
        'lift': {'at': 'lift.pos'},
        **{name: {'constant': 0.25} for name in JOINTS[2:]},
        'gripper': {'feature': 'observation.state', 'at': 2, 'scale': 0.01},
    },
}


def foreign_embodiment(**changes):
    options = {
        'name': 'degrees',
        'cameras': (Camera('front', 'front', SIZE[1], SIZE[0]),),
        'joint_names': JOINTS,
        'gripper': Gripper('jaw', 0.0, 0.8),
        'action': ActionSpec(
            'joint_position', (*JOINTS, 'gripper'), ('rad',) * 6 + ('1',), (-99.0,) * 7,
            (99.0,) * 7,
        ),
        'command': CommandSpec('multi_array', {'command': 'cmd'}),
        'rate_hz': float(FPS),
    }  # fmt: skip
    return Embodiment(**{**options, **changes})


def foreign_keys(**changes):
    return LeRobotKeys.from_dict({**KEYS, **changes})


def picture(episode, frame):
    """A smooth image that tells its episode and frame apart from every other."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    layers = (x * 3 + frame * 9, y * 4, np.full(SIZE, 40 + 60 * episode))
    return np.stack(layers, axis=-1).clip(0, 255).astype(np.uint8)


def write_foreign(root, lengths=(5, 7, 6), kind='video', info=None):
    """Write a folder; returns state and action of every frame, by episode."""
    rng = np.random.default_rng(0)
    values = [rng.uniform(0, 50, (2, n, 3)).astype(np.float32) for n in lengths]
    for folder in ('meta/episodes/chunk-000', 'data/chunk-000'):
        (root / folder).mkdir(parents=True)
    starts = np.cumsum([0, *lengths]).tolist()
    _write_rows(root, values, lengths, starts, kind)
    rows = []
    for i, n in enumerate(lengths):
        row = {
            'episode_index': i, 'tasks': [f'do {i % 2}'], 'length': n,
            'data/chunk_index': 0, 'data/file_index': 0,
            'dataset_from_index': starts[i], 'dataset_to_index': starts[i + 1],
        }  # fmt: skip
        if kind == 'video':
            prefix = 'videos/observation.images.top'
            row |= {f'{prefix}/chunk_index': 0, f'{prefix}/file_index': 0}
            row |= {f'{prefix}/from_timestamp': starts[i] / FPS}
            row |= {f'{prefix}/to_timestamp': starts[i + 1] / FPS}
        rows.append(row)
    pq.write_table(
        pa.Table.from_pylist(rows), root / 'meta/episodes/chunk-000/file-000.parquet'
    )
    tasks = pa.table({'task_index': [0, 1], '__index_level_0__': ['do 0', 'do 1']})
    pq.write_table(tasks, root / 'meta/tasks.parquet')
    scalars = ('frame_index', 'episode_index', 'index', 'task_index')
    vector = {'dtype': 'float32', 'shape': [3], 'names': {'motors': NAMES}}
    image = {'dtype': kind, 'shape': [3, *SIZE], 'names': ['channels', 'height', 'width']}
    document = {
        'codebase_version': 'v3.0', 'robot_type': 'other', 'fps': FPS,
        'total_episodes': len(lengths), 'total_frames': starts[-1], 'total_tasks': 2,
        'data_path': 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
        'video_path': 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4',
        'splits': {'train': f'0:{len(lengths)}'},
        'features': {
            'observation.state': vector, 'action': vector, 'observation.images.top': image,
            'timestamp': {'dtype': 'float32', 'shape': [1], 'names': None},
            **{name: {'dtype': 'int64', 'shape': [1], 'names': None} for name in scalars},
        },
        **(info or {}),
    }  # fmt: skip
    (root / 'meta/info.json').write_text(json.dumps(document))
    return values


def _write_rows(root, values, lengths, starts, kind):
    """All frames in one group of rows, vectors as lists of any length."""
    columns = {
        'observation.state': [row.tolist() for episode in values for row in episode[0]],
        'action': [row.tolist() for episode in values for row in episode[1]],
        'timestamp': np.concatenate([np.arange(n) / FPS for n in lengths]).astype(np.float32),
        'frame_index': np.concatenate([np.arange(n) for n in lengths]),
        'episode_index': np.repeat(np.arange(len(lengths)), lengths),
        'index': np.arange(starts[-1]),
        'task_index': np.repeat(np.arange(len(lengths)) % 2, lengths),
    }
    pictures = [picture(i, t) for i, n in enumerate(lengths) for t in range(n)]
    if kind == 'image':
        columns['observation.images.top'] = [
            {'bytes': cv2.imencode('.png', p[..., ::-1])[1].tobytes(), 'path': None}
            for p in pictures
        ]
    table = {
        name: pa.array(v, pa.list_(pa.float32()) if name in ('action', 'observation.state')
                       else None)
        for name, v in columns.items()
    }  # fmt: skip
    pq.write_table(pa.table(table), root / 'data/chunk-000/file-000.parquet')
    if kind == 'video':
        path = root / 'videos/observation.images.top/chunk-000/file-000.mp4'
        path.parent.mkdir(parents=True)
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('libx264', FPS, options={'crf': '4', 'g': '12'})
            stream.pix_fmt = 'yuv444p'
            stream.height, stream.width = SIZE
            for image in [*pictures, None]:
                frame = None if image is None else av.VideoFrame.from_ndarray(image, 'rgb24')
                for packet in stream.encode(frame):
                    container.mux(packet)
