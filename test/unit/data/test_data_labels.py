"""Recorded segmentation → labels of samples → what a batch knows about its pixels and scenes."""

import json

import numpy as np
import pytest
from recordings import make_embodiment, Recorder
import torch

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeWriter
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.data.episode import index_episode
from vla_alignment_ros.data.labels import label_names, label_shape, NOT_KNOWN, read_labels
from vla_alignment_ros.embodiment import Camera
from vla_alignment_ros.errors import DatasetError

CAMERAS = (
    Camera('front', 'front/image_raw', 16, 12, segmentation='front/segmentation'),
    Camera('wrist', 'wrist', 8, 8),
)
NOTE = json.dumps(['red cube', 'blue ball'])


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path / 'demos', make_embodiment(cameras=CAMERAS))


def segmentation(observation):
    return wire.decode_image(observation['front/segmentation']).image[..., 0]


def test_labels_are_the_ids_at_the_middle_of_every_four_pixels(recorder):
    path, observations, _ = recorder.record(ticks=5, extra={'labels': NOTE})
    labels = read_labels(index_episode(path))
    assert set(labels) == {'front'}  # nobody knew about the wrist camera
    assert labels['front'].shape == (5, *label_shape(12, 16)) == (5, 3, 4)
    for row, observation in enumerate(observations):
        assert (labels['front'][row] == segmentation(observation)[2::4, 2::4]).all()


def test_an_image_without_its_own_segmentation_is_not_known(recorder):
    seen = recorder.observation
    # from the third tick on the segmentation is silent: an old one shows another moment
    recorder.observation = lambda ts_ns: {
        topic: raw
        for topic, raw in seen(ts_ns).items()
        if topic != 'front/segmentation' or ts_ns < 1_200_000_000
    }
    path, _, _ = recorder.record(ticks=6, extra={'labels': NOTE})
    labels = read_labels(index_episode(path))['front']
    assert (labels[:2] != NOT_KNOWN).all()
    assert (labels[3:] == NOT_KNOWN).all()


def test_an_id_without_a_name_is_refused(recorder):
    path, _, _ = recorder.record(extra={'labels': json.dumps(['red cube'])})
    with pytest.raises(DatasetError, match='shows id 2; "labels" has 1 names'):
        read_labels(index_episode(path))


@pytest.mark.parametrize('note', ['{', '"red"', '[1]', json.dumps(['x'] * 255)])
def test_a_broken_note_is_refused_by_name(note):
    with pytest.raises(DatasetError, match='episode 7: the note "labels"'):
        label_names({'labels': note}, 'episode 7')


def test_batches_count_names_over_all_episodes(recorder):
    _, first, _ = recorder.record('a', ticks=4, extra={'labels': NOTE})
    _, second, _ = recorder.record('b', ticks=4, extra={'labels': '["blue ball", "cup"]'})
    recorder.observation = lambda ts_ns: {
        t: raw for t, raw in Recorder.observation(recorder, ts_ns).items() if 'segm' not in t
    }
    recorder.record('c', ticks=4)
    dataset = load_dataset([recorder.root], val_fraction=0.0, progress=False).train
    assert dataset.names == ('red cube', 'blue ball', 'cup')
    labels = dataset.get_batch(range(12))['labels']
    assert set(labels) == {'front'} and labels['front'].dtype == torch.int64
    for row, observation in enumerate(first + second):
        own = segmentation(observation)[2::4, 2::4]
        expected = own if row < 4 else np.array([0, 2, 3])[own]
        assert (labels['front'][row].numpy() == expected).all()
    assert (labels['front'][8:] == -1).all()
    assert dataset[5]['labels']['front'].shape == (3, 4)


def test_labels_are_no_condition_for_a_dataset(recorder, tmp_path):
    with EpisodeWriter(recorder.root, recorder.embodiment, 'plain') as writer:
        assert 'front/segmentation' not in recorder.embodiment.topics()
        writer.set_instruction('go')
        for tick in range(4):
            ts_ns = 10**9 + tick * 10**8
            messages = recorder.observation(ts_ns) | recorder.codec.encode(np.zeros(7), ts_ns)
            del messages['front/segmentation']
            for topic, raw in messages.items():
                recorder.write(writer, topic, ts_ns, raw)
        writer.finish(True, {})
    dataset = load_dataset([recorder.root], val_fraction=0.0, progress=False).train
    assert len(dataset) == 4 and dataset.get_batch([0])['labels'] == {}
