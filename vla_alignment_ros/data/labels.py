"""What the pixels of a recording show, where its recorder knew: for training and judging alone.

A simulator (or an annotator) records a mono8 image beside a camera's, on the topic that the
embodiment names as the camera's `segmentation`: 0, or a name counted from 1 in the list of names
that the bag's note `labels` holds. Nothing here is ever an input of the policy.
"""

from __future__ import annotations

import json

import numpy as np

from vla_alignment_ros import wire
from vla_alignment_ros.data import align
from vla_alignment_ros.data.episode import EpisodeIndex
from vla_alignment_ros.errors import BagError, DatasetError, WireError

STRIDE = 4  # pixels per label, each way
NOT_KNOWN = 255
MAX_NAMES = NOT_KNOWN - 1


def label_names(extra: dict[str, str], where: str) -> tuple[str, ...]:
    """The names that a bag's notes list, in the order of the ids 1, 2, …; none without the note.

    Raises:
        DatasetError: the note is not a JSON list of at most 254 strings.
    """
    note = extra.get('labels')
    if not note:
        return ()
    try:
        names = json.loads(note)
    except json.JSONDecodeError as error:
        raise DatasetError(f'{where}: the note "labels" is not JSON: {error}') from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{where}: the note "labels" must be a list of names, got {note[:80]}')
    if len(names) > MAX_NAMES:
        raise DatasetError(f'{where}: the note "labels" has {len(names)} names, {MAX_NAMES} fit')
    return tuple(names)


def label_shape(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the labels of an image of that many pixels."""
    return -(-height // STRIDE), -(-width // STRIDE)


def read_labels(index: EpisodeIndex) -> dict[str, np.ndarray]:
    """Labels of every sample of an episode: camera -> (T, rows, columns) uint8.

    A label is the id at the middle of its STRIDE × STRIDE pixels; `NOT_KNOWN` where the recording
    has no segmentation that belongs to the sample's image. Cameras without any are left out.

    Raises:
        DatasetError: a message is broken or shows an id without a name.
    """
    path, names = index.info.path, label_names(index.info.extra, str(index.info.path))
    cameras = {
        c.segmentation: c
        for c in index.embodiment.cameras
        if c.segmentation is not None and index.info.message_counts.get(c.segmentation)
    }
    images: dict[str, list[np.ndarray]] = {topic: [] for topic in cameras}
    stamps: dict[str, list[int]] = {topic: [] for topic in cameras}
    try:
        every = {topic: range(index.info.message_counts[topic]) for topic in cameras}
        for topic, _, raw in index.episode.some(every) if cameras else ():
            frame = wire.decode_image(raw)
            images[topic].append(_coarse(frame.image[..., 0], cameras[topic], len(names), topic))
            stamps[topic].append(frame.ts_ns)
    except (BagError, WireError, DatasetError) as error:
        raise DatasetError(f'episode {path}: {error}') from error
    labels = {}
    for topic, camera in cameras.items():
        # as old as the control period at most: an older one shows another moment than the image
        pick = align.as_of(np.array(stamps[topic], np.int64), index.ticks_ns)  # (T,)
        age = index.ticks_ns - np.array(stamps[topic], np.int64)[pick]
        known = (pick >= 0) & (age <= 1e9 / index.embodiment.rate_hz)
        found = np.stack(images[topic])[pick]  # (T, rows, columns)
        found[~known] = NOT_KNOWN
        labels[camera.name] = found
    return labels


def _coarse(pixels: np.ndarray, camera, names: int, topic: str) -> np.ndarray:
    """(height, width) ids → (rows, columns) of the embodiment's image size."""
    if int(pixels.max()) > names:
        raise DatasetError(f'{topic!r} shows id {int(pixels.max())}; "labels" has {names} names')
    rows, columns = label_shape(camera.height, camera.width)
    # nearest: ids cannot be averaged
    y = ((np.arange(rows) + 0.5) * pixels.shape[0] / rows).astype(np.int64)
    x = ((np.arange(columns) + 0.5) * pixels.shape[1] / columns).astype(np.int64)
    return pixels[np.ix_(y, x)]
