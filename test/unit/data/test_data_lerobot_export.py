"""Bags become a LeRobot folder, and come back as what they were."""

from dataclasses import replace
import json
import os
import subprocess
import sys

from lerobot_folders import write_foreign
from memory import resident_mb
import numpy as np
import pyarrow.parquet as pq
import pytest
from recordings import make_embodiment, PERIOD_NS

from vla_alignment_ros import wire
from vla_alignment_ros.data import lerobot
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter, find_episodes
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.data.lerobot.export import export_lerobot
from vla_alignment_ros.data.lerobot.to_bags import import_bags
from vla_alignment_ros.data.lerobot.writer import LeRobotWriter, Options
from vla_alignment_ros.data.source import find_sources, open_episode
from vla_alignment_ros.embodiment import ActionSpec, Camera, CommandSpec, Gripper
from vla_alignment_ros.errors import ConfigError, DatasetError
from vla_alignment_ros.wire import encode_string

JOINTS = tuple(f'j{i}' for i in range(6))
JOINT_ACTION = ActionSpec(
    'joint_position', (*JOINTS, 'gripper'), ('rad',) * 6 + ('1',), (-9.0,) * 7, (9.0,) * 7
)
LARGER = (Camera('front', 'front', 97, 65), Camera('wrist', 'wrist', 64, 64))  # odd, and even
ROBOTS = {
    'twist': {},
    'joint_trajectory': {
        'joint_names': JOINTS,
        'gripper': Gripper('finger', 0.01, 0.8),
        'action': JOINT_ACTION,
        'command': CommandSpec('joint_trajectory', {'command': 'cmd'}),
    },
    'multi_array': {
        'joint_names': JOINTS,
        'action': JOINT_ACTION,
        'command': CommandSpec('multi_array', {'command': 'cmd', 'gripper': 'grip'}),
    },
}


def export(root, out, embodiment, **options):
    episodes, _ = find_sources([root])
    return export_lerobot(episodes, out, embodiment, progress=False, **options)


def read_back(out, number=0):
    return read_episode(f'lerobot:{out}/episode_{number:06d}')


def psnr(a, b):
    """Of the worst image, dB."""
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    return 10 * np.log10(255**2 / max(error.mean(axis=(1, 2, 3)).max(), 1e-9))


def smooth(recorder):
    """Images as a camera has them, in place of noise, which no codec keeps."""
    def observation(ts_ns, made=recorder.observation):
        raw = made(ts_ns)
        for c in recorder.embodiment.cameras:
            y, x = np.mgrid[: c.height, : c.width]
            tick = ts_ns // PERIOD_NS
            pixels = np.stack([x * 2 + tick * 5, y * 3, x + y + tick], axis=-1).clip(0, 255)
            raw[c.topic] = wire.encode_image(pixels.astype(np.uint8), ts_ns, c.name)
        return raw

    recorder.observation = observation
    return recorder


# -- what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize('robot', list(ROBOTS))
def test_actions_and_stamps_come_back_bit_for_bit(tmp_path, variant, robot):
    recorder = variant(tmp_path / 'bags', **ROBOTS[robot])
    values = np.random.default_rng(1).normal(size=(40, 7)) * 10.0 ** np.arange(-20, 20)[:, None]
    values[:, 6] = np.linspace(0, 1, 40) ** 2
    values[3] = -0.0
    values[4, :6] = np.float32(1e-42)  # subnormal
    recorder.action = lambda tick, ticks: values[tick]
    path, _, _ = recorder.record(ticks=40, start_ns=1_700_000_000_123_456_789)
    export(path, tmp_path / 'out', recorder.embodiment)
    was, now = read_episode(path), read_back(tmp_path / 'out')
    assert now.index.actions.tobytes() == was.index.actions.tobytes()
    assert now.index.ticks_ns.tobytes() == was.index.ticks_ns.tobytes()
    assert (now.index.chunk_stop == was.index.chunk_stop).all()
    np.testing.assert_allclose(now.state, was.state, rtol=1e-6, atol=1e-9)
    assert (now.state[:, :-1] == was.state[:, :-1]).all()  # the joints, to the bit


@pytest.mark.parametrize('codec, at_least', [('h264', 40), ('av1', 25)])
def test_images_come_back_within_the_loss_of_the_codec(tmp_path, variant, codec, at_least):
    recorder = variant(tmp_path / 'bags', cameras=LARGER)
    path, _, _ = smooth(recorder).record(ticks=12)
    export(path, tmp_path / 'out', recorder.embodiment, options=Options(codec))
    was, now = read_episode(path), read_back(tmp_path / 'out')
    for name in was.images:
        assert now.images[name].shape == was.images[name].shape
        assert psnr(now.images[name], was.images[name]) > at_least


def test_a_better_quality_is_better_and_larger(tmp_path, recorder):
    path, _, _ = smooth(recorder).record(ticks=8)
    was, found = read_episode(path), []
    for crf in (2, 40):
        out = tmp_path / f'crf{crf}'
        export(path, out, recorder.embodiment, options=Options(crf=crf))
        size = sum(f.stat().st_size for f in out.rglob('*.mp4'))
        found.append((psnr(read_back(out).images['front'], was.images['front']), size))
    assert found[0][0] > found[1][0] + 5
    assert found[0][1] > found[1][1]


def test_images_too_small_for_a_codec_are_refused(tmp_path, recorder):
    path, _, _ = recorder.record()
    with pytest.raises(ConfigError, match='front has 16x12 pixels, .* at least 64 .* use h264'):
        export(path, tmp_path / 'out', recorder.embodiment, options=Options('av1'))


@pytest.mark.parametrize('success', [True, False, None])
def test_names_verdicts_words_and_notes_come_back_as_they_were(tmp_path, recorder, success):
    text = 'Pick up the "Red" cube, bitte — 立方体!'
    notes = {'task': 'pick', 'seed': '7', 'labels': '["red cube"]'}
    path, _, _ = recorder.record('first', instruction=text, success=success, extra=notes)
    export(path, tmp_path / 'out', recorder.embodiment)
    info = open_episode(f'lerobot:{tmp_path}/out/episode_000000').info
    assert (info.name, info.instruction, info.success) == ('first', text, success)
    assert info.extra == notes
    assert info.embodiment == recorder.embodiment
    tasks = pq.read_table(tmp_path / 'out' / 'meta' / 'tasks.parquet')
    assert tasks['task'].to_pylist() == [text]
    assert tasks.schema.pandas_metadata['index_columns'] == ['task']


def test_an_instruction_that_changes_is_a_task_a_frame(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=8)
    reader = EpisodeReader(path)
    with EpisodeWriter(tmp_path / 'bags', recorder.embodiment) as writer:
        for topic, msgtype, ts_ns, raw in reader.messages():
            writer.write(topic, msgtype, ts_ns, raw)
            if topic == 'front/image_raw' and ts_ns == 10**9 + 4 * PERIOD_NS:
                said = encode_string('Stop it!')
                writer.write('instruction', 'std_msgs/msg/String', ts_ns, said)
        changed = writer.finish(True)
    export(changed, tmp_path / 'out', recorder.embodiment)
    now = read_back(tmp_path / 'out')
    assert now.instructions == read_episode(changed).instructions
    assert now.instructions == ('pick up the red cube',) * 4 + ('stop it',) * 4
    rows = pq.read_table(tmp_path / 'out/data/chunk-000/file-000.parquet')
    assert rows['task_index'].to_pylist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize('robot', list(ROBOTS))
def test_bags_made_from_a_folder_are_the_same_demonstrations(tmp_path, variant, robot):
    recorder = variant(tmp_path / 'made', **ROBOTS[robot])
    flags = [(0, True), (2, False), (4, True)]
    path, _, _ = recorder.record('first', success=False, interventions=flags)
    export(path, tmp_path / 'out', recorder.embodiment)
    episodes, _ = find_sources([f'lerobot:{tmp_path}/out'])
    (bag,) = import_bags(episodes, tmp_path / 'bags', progress=False)
    info, was, now = EpisodeReader(bag).info, read_episode(path), read_episode(bag)
    assert (bag.name, info.success, info.instruction) == ('first', False, 'Pick up the red cube.')
    assert info.extra == {'task': 'pick'}
    assert now.index.actions.tobytes() == was.index.actions.tobytes()
    assert (now.index.ticks_ns == was.index.ticks_ns).all()
    assert now.index.correction.tolist() == [True, True, False, False, True, True]
    # the pixels are those that were decoded: what training on the folder itself sees
    seen = read_episode(episodes[0])
    assert (now.state == seen.state).all()
    assert (now.index.correction == seen.index.correction).all()
    assert now.instructions == seen.instructions == was.instructions
    for name in seen.images:
        assert (now.images[name] == seen.images[name]).all()


def test_a_robot_of_compressed_images_gets_them_without_further_loss(tmp_path, recorder):
    path, _, _ = recorder.record()
    export(path, tmp_path / 'out', recorder.embodiment)
    cameras = tuple(replace(c, compressed=True) for c in recorder.embodiment.cameras)
    episodes, _ = find_sources([f'lerobot:{tmp_path}/out'], make_embodiment(cameras=cameras))
    (bag,) = import_bags(episodes, tmp_path / 'bags', progress=False)
    assert EpisodeReader(bag).info.message_types['wrist'] == 'sensor_msgs/msg/CompressedImage'
    plain = read_back(tmp_path / 'out')
    for name, images in read_episode(bag).images.items():
        assert (images == plain.images[name]).all()


# -- how episodes lie in the files --------------------------------------------------------------


def test_the_layout_is_lerobots(tmp_path, recorder):
    for ticks in (6, 9):
        recorder.record(ticks=ticks, instruction=f'Do {ticks}.')
    done = export(recorder.root, tmp_path / 'out', recorder.embodiment)
    assert (done.bags, done.episodes, done.frames, done.cut) == (2, 2, 15, [])
    info = json.loads((tmp_path / 'out/meta/info.json').read_text())
    assert (info['codebase_version'], info['fps']) == ('v3.0', 10)
    assert info['splits'] == {'train': '0:2'}
    assert (info['total_episodes'], info['total_frames'], info['total_tasks']) == (2, 15, 2)
    assert info['features']['action'] == {
        'dtype': 'float32', 'shape': [7], 'names': list(recorder.embodiment.action.names)
    }  # fmt: skip
    front = info['features']['observation.images.front']
    assert (front['dtype'], front['shape']) == ('video', [12, 16, 3])
    assert front['info']['video.fps'] == 10
    rows = pq.read_table(tmp_path / 'out/data/chunk-000/file-000.parquet')
    assert set(rows.column_names) == {
        key for key, feature in info['features'].items() if feature['dtype'] != 'video'
    }
    assert rows['index'].to_pylist() == list(range(15))
    assert rows['frame_index'].to_pylist() == [*range(6), *range(9)]
    assert rows['episode_index'].to_pylist() == [0] * 6 + [1] * 9
    times = rows['timestamp'].to_numpy()
    assert times.dtype == np.float32
    assert (times == np.array([i / 10 for i in (*range(6), *range(9))], np.float32)).all()
    episodes = pq.read_table(tmp_path / 'out/meta/episodes/chunk-000/file-000.parquet').to_pylist()
    assert [e['dataset_from_index'] for e in episodes] == [0, 6]
    assert [e['dataset_to_index'] for e in episodes] == [6, 15]
    assert [e['tasks'] for e in episodes] == [['Do 6.'], ['Do 9.']]
    video = 'videos/observation.images.wrist'
    assert [e[f'{video}/from_timestamp'] for e in episodes] == [0.0, 0.6]
    assert [e[f'{video}/to_timestamp'] for e in episodes] == [0.6, 1.5]
    # a row group an episode: it can be read alone
    assert pq.ParquetFile(tmp_path / 'out/data/chunk-000/file-000.parquet').num_row_groups == 2


def test_statistics_are_those_of_the_samples(tmp_path, recorder):
    paths = [recorder.record(ticks=t)[0] for t in (6, 9)]
    export(recorder.root, tmp_path / 'out', recorder.embodiment)
    stats = json.loads((tmp_path / 'out/meta/stats.json').read_text())
    data = [read_episode(path) for path in paths]
    actions = np.concatenate([d.index.actions for d in data]).astype(np.float64)
    np.testing.assert_allclose(stats['action']['mean'], actions.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(stats['action']['std'], actions.std(axis=0), atol=1e-12)
    assert stats['action']['min'] == actions.min(axis=0).tolist()
    assert stats['action']['count'] == [15]
    pixels = np.concatenate([d.images['front'] for d in data]).reshape(-1, 3) / 255
    front = {k: np.array(v) for k, v in stats['observation.images.front'].items()}
    assert front['mean'].shape == (3, 1, 1)
    np.testing.assert_allclose(front['mean'].ravel(), pixels.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(front['std'].ravel(), pixels.std(axis=0), atol=1e-12)
    assert (front['max'].ravel() == pixels.max(axis=0)).all()
    assert set(stats) == set(json.loads((tmp_path / 'out/meta/info.json').read_text())['features'])
    (first, _) = pq.read_table(
        tmp_path / 'out/meta/episodes/chunk-000/file-000.parquet'
    ).to_pylist()
    low = np.quantile(data[0].index.actions.astype(np.float64), 0.01, axis=0)
    np.testing.assert_allclose(first['stats/action/q01'], low)


def test_a_gap_cuts_an_episode_in_two(tmp_path, recorder):
    path, _, _ = recorder.record('whole', ticks=10)
    reader = EpisodeReader(path)
    with EpisodeWriter(tmp_path / 'bags', recorder.embodiment, 'paused') as writer:
        for topic, msgtype, ts_ns, raw in reader.messages():
            if topic != 'wrist' or ts_ns != 10**9 + 4 * PERIOD_NS:
                writer.write(topic, msgtype, ts_ns, raw)
        writer.set_instruction('Pick up the red cube.')
        paused = writer.finish(True, {})
    robot = make_embodiment(max_age_s={'wrist': 0.05})
    done = export(paused, tmp_path / 'out', robot)
    assert (done.cut, done.bags, done.episodes, done.frames) == (['paused'], 1, 2, 9)
    was = read_episode(path)
    parts = [read_back(tmp_path / 'out', i) for i in (0, 1)]
    assert [p.index.info.name for p in parts] == ['paused.0', 'paused.1']
    assert [len(p.index) for p in parts] == [4, 5]
    kept = np.delete(np.arange(10), 4)
    assert (np.concatenate([p.index.actions for p in parts]) == was.index.actions[kept]).all()
    assert (np.concatenate([p.index.ticks_ns for p in parts]) == was.index.ticks_ns[kept]).all()
    worst = psnr(np.concatenate([p.images['front'] for p in parts]), was.images['front'][kept])
    assert worst > 30  # of noise; the image of another moment would have 8 dB


def test_files_are_begun_anew_where_they_would_grow_too_large(tmp_path, recorder):
    for i in range(5):
        recorder.record(f'ep{i}', ticks=6 + i)
    options = Options(data_file_mb=0, video_file_mb=0)  # every episode is too much
    export(recorder.root, tmp_path / 'out', recorder.embodiment, options=options)
    for folder in ('data', 'videos/observation.images.front', 'videos/observation.images.wrist'):
        files = sorted(f.name for f in (tmp_path / 'out' / folder).rglob('file-*'))
        assert [f.split('.')[0] for f in files] == [f'file-{i:03d}' for i in range(5)]
    for i in range(5):
        was, now = read_episode(recorder.root / f'ep{i}'), read_back(tmp_path / 'out', i)
        assert (now.index.actions == was.index.actions).all()
        assert psnr(now.images['front'], was.images['front']) > 30


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path, recorder):
    waiting, resident = [], {}

    class Watched(LeRobotWriter):
        def end(self, frames):
            super().end(frames)
            waiting.append(len(self._rows))
            if len(waiting) in (30, 120):
                resident[len(waiting)] = resident_mb()

    for i in range(3):
        recorder.record(f'ep{i}', ticks=4)
    episodes = find_sources([recorder.root])[0] * 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('vla_alignment_ros.data.lerobot.export.LeRobotWriter', Watched)
        export_lerobot(episodes, tmp_path / 'out', recorder.embodiment, progress=False)
    assert len(waiting) == 120
    assert max(waiting) < 50  # rows of the table of episodes
    assert resident[120] - resident[30] < 8  # MiB
    assert len(find_sources([f'lerobot:{tmp_path}/out'])[0]) == 120


# -- whole or not at all ------------------------------------------------------------------------


def test_a_target_that_exists_is_refused_and_left_alone(tmp_path, recorder):
    path, _, _ = recorder.record()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('precious')
    with pytest.raises(DatasetError, match='exists already; it is not overwritten'):
        export(path, tmp_path / 'out', recorder.embodiment)
    assert os.listdir(tmp_path / 'out') == ['mine']
    assert not (tmp_path / '.out.partial').exists()


def test_a_target_that_is_being_written_is_refused(tmp_path, recorder):
    path, _, _ = recorder.record()
    (tmp_path / '.out.partial').mkdir()
    with pytest.raises(DatasetError, match=r'\.out\.partial exists: .*crashed; remove it'):
        export(path, tmp_path / 'out', recorder.embodiment)


CRASH = """
import os, sys
from pathlib import Path
from vla_alignment_ros.data.lerobot import writer
from vla_alignment_ros.data.lerobot.export import export_lerobot
from vla_alignment_ros.data.source import find_sources
root, out = Path(sys.argv[1]), Path(sys.argv[2])
writer.fsync = lambda path: os.kill(os.getpid(), 9)  # all is written, nothing is in its place
episodes, _ = find_sources([root])
export_lerobot(episodes, out, episodes[0].info.embodiment, progress=False)
"""


def test_a_killed_export_leaves_nothing_that_is_taken_for_a_folder(tmp_path, recorder):
    path, _, _ = recorder.record()
    out = tmp_path / 'sets' / 'out'
    process = subprocess.run([sys.executable, '-c', CRASH, str(path), str(out)])
    assert process.returncode == -9
    assert os.listdir(out.parent) == ['.out.partial']
    with pytest.raises(DatasetError, match='no folder .*out'):
        find_sources([f'lerobot:{out}'])


def test_a_damaged_bag_stops_the_export_by_name_and_leaves_nothing(tmp_path, recorder):
    recorder.record('good')
    bad, _, _ = recorder.record('bad')
    (mcap,) = bad.glob('*.mcap')
    mcap.write_bytes(mcap.read_bytes()[:2000])
    with pytest.raises(DatasetError, match='episode .*bad: .*--skip-bad'):
        export(recorder.root, tmp_path / 'out', recorder.embodiment)
    assert not [name for name in os.listdir(tmp_path) if 'out' in name]
    done = export(recorder.root, tmp_path / 'out', recorder.embodiment, skip_bad=True)
    assert (done.bags, list(done.skipped)) == (1, [str(bad)])


def test_a_damaged_image_costs_its_episode_alone(tmp_path, recorder):
    recorder.record('good')
    path, _, _ = recorder.record('made')
    reader = EpisodeReader(path)
    with EpisodeWriter(recorder.root, recorder.embodiment, 'torn') as writer:
        for topic, msgtype, ts_ns, raw in reader.messages():
            torn = topic == 'wrist' and ts_ns == 10**9 + 3 * PERIOD_NS
            writer.write(topic, msgtype, ts_ns, raw[:-9] if torn else raw)
        writer.set_instruction('x')
        torn = writer.finish(True)
    with pytest.raises(DatasetError, match='episode .*torn: wrist: broken'):
        export(recorder.root, tmp_path / 'out', recorder.embodiment)
    assert not [name for name in os.listdir(tmp_path) if 'out' in name]
    done = export(recorder.root, tmp_path / 'out', recorder.embodiment, skip_bad=True)
    assert (done.bags, done.episodes, list(done.skipped)) == (2, 2, [str(torn)])


def test_a_full_disk_is_an_error_with_its_reason(tmp_path, recorder, monkeypatch):
    path, _, _ = recorder.record()

    def full(*arguments, **options):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pyarrow.parquet.ParquetWriter.write_table', full)
    with pytest.raises(DatasetError, match='cannot write .*out: .*No space left'):
        export(path, tmp_path / 'out', recorder.embodiment)
    assert not [name for name in os.listdir(tmp_path) if 'out' in name]


# -- what is refused ----------------------------------------------------------------------------


def test_a_rate_that_is_no_whole_number_is_refused(tmp_path, variant):
    recorder = variant(tmp_path / 'bags', rate_hz=12.5)
    path, _, _ = recorder.record()
    with pytest.raises(DatasetError, match='whole frames a second, .* rate_hz 12.5'):
        export(path, tmp_path / 'out', recorder.embodiment)


@pytest.mark.parametrize('options', [Options('mpeg2'), Options(crf=64), Options(crf=-1)])
def test_a_codec_or_quality_that_is_not_there_is_refused(tmp_path, recorder, options):
    path, _, _ = recorder.record()
    with pytest.raises(ConfigError, match='allowed: h264, av1|crf must be 0'):
        export(path, tmp_path / 'out', recorder.embodiment, options=options)
    assert not (tmp_path / '.out.partial').exists()


@pytest.mark.parametrize('missing', ['av', 'pyarrow'])
def test_without_its_packages_it_says_what_to_install(tmp_path, monkeypatch, missing):
    write_foreign(tmp_path / 'set')
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DatasetError, match=rf"need {missing}: pip install '.*\[lerobot\]'"):
        lerobot.require()
    with pytest.raises(DatasetError, match=missing):
        find_sources([f'lerobot:{tmp_path}/set'])


def test_a_folder_of_lerobot_is_named_where_bags_were_meant(tmp_path, recorder):
    path, _, _ = recorder.record()
    export(path, tmp_path / 'out', recorder.embodiment)
    assert find_episodes(tmp_path / 'out') == []
    with pytest.raises(DatasetError, match='is a LeRobot folder, .* name it lerobot:'):
        find_sources([tmp_path / 'out'])
