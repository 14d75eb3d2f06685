from concurrent.futures import Future, ThreadPoolExecutor
import copy
from functools import partial
import json
import os
from pathlib import Path
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from recordings import make_embodiment, Recorder
import torch

from vla_alignment_ros.data import build
from vla_alignment_ros.data import cache as cache_module
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.cache import DatasetCache
from vla_alignment_ros.data.dataset import (
    DemonstrationDataset,
    load_dataset,
    split_episodes,
)
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.embodiment import Camera
from vla_alignment_ros.errors import DatasetError


def load(root, **options):
    return load_dataset([root], progress=False, **options)


def built(root):
    """The finished caches of a folder and when each was made."""
    found = (Path(root) / '.vla_cache').glob('*/manifest.json')
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    recorder = Recorder(tmp_path_factory.mktemp('recorded'), make_embodiment())
    for i in range(5):
        recorder.record(f'ep{i}', ticks=4 + i, instruction=f'Pick thing {i % 2}.')
    return recorder.root


@pytest.fixture
def demos(recorded, recorder):
    """Five episodes, of this test alone."""
    return shutil.copytree(recorded, recorder.root)


# -- what is in a batch -------------------------------------------------------------------------


def test_more_processes_read_where_there_is_more_to_read_and_more_cores(demos, monkeypatch):
    episodes = [EpisodeReader(path) for path in find_episodes(demos)]
    cores = set(range(4))
    monkeypatch.setattr(build.os, 'sched_getaffinity', lambda pid: cores)
    size = sum(path.stat().st_size for episode in episodes for path in episode.files())
    found = []
    for share in (2, 1, 0.5, 0.2, 0.01):
        monkeypatch.setattr(build, 'WORKER_BYTES', int(size * share) + 1)
        found.append(build.useful_workers(episodes))
    assert found == [1, 1, 2, 4, 4]


@pytest.fixture
def together():
    """`map` by this thread and one helper, and what tells that the helper has started."""
    started = Future()
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as threads:
        yield partial(build._map_together, pool, threads, [started]), started
        if not started.done():
            started.set_result(0)


def test_nobody_waits_for_a_helper_to_start(together):
    run, _ = together
    names = list(run(lambda number: threading.current_thread().name, range(5)))
    assert names == [threading.current_thread().name] * 5


def test_a_helper_that_cannot_start_is_not_missed(together):
    run, started = together
    started.set_exception(OSError('no room for a process'))
    names = set(run(lambda number: threading.current_thread().name, range(50)))
    assert names == {threading.current_thread().name}


def test_results_come_in_order_whoever_made_them(together):
    run, started = together
    started.set_result(0)
    busy = threading.Barrier(2, timeout=60)  # both of them, or it breaks

    def make(number):
        if number < 2:
            busy.wait()
        return number, threading.current_thread().name

    made = list(run(make, range(20)))
    assert [number for number, _ in made] == list(range(20))
    assert len({name for _, name in made}) == 2


def test_an_error_comes_where_its_result_would_and_ends_the_work(together):
    run, _ = together
    seen = []

    def make(number):
        seen.append(number)
        if number == 2:
            raise ValueError('two')
        return number

    results = run(make, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match='two'):
        next(results)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_hold_exactly_what_the_episodes_hold(demos, workers):
    dataset = load(demos, horizon=3, workers=workers).train
    batch = dataset.get_batch(np.arange(len(dataset)))
    for number, episode in enumerate(dataset.episodes):
        data = read_episode(episode.path)
        rows = batch['episode'] == dataset.cache.episodes.index(episode)
        assert int(rows.sum()) == len(data.index), number
        for name, images in data.images.items():
            assert batch['images'][name].dtype == torch.uint8
            assert (batch['images'][name][rows].numpy() == images).all()
        assert (batch['state'][rows].numpy() == data.state).all()
        assert (batch['tick'][rows].numpy() == data.index.ticks_ns).all()
        assert (batch['keyframe_gripper'][rows].numpy() == data.keyframe_gripper).all()
        texts = [dataset.instructions[i] for i in batch['instruction_id'][rows]]
        assert tuple(texts) == data.instructions
        assert (batch['action'][rows, 0].numpy() == data.index.actions).all()


def test_chunks_are_masked_past_the_end_and_keep_the_gripper_without_motion(recorder):
    recorder.record('one', ticks=5)
    dataset = load(recorder.root, horizon=3, val_fraction=0).train
    batch = dataset.get_batch([0, 2, 3, 4])
    assert batch['action_mask'].tolist() == [
        [True, True, True],
        [True, True, True],
        [True, True, False],
        [True, False, False],
    ]
    actions = read_episode(dataset.episodes[0].path).index.actions
    assert (batch['action'][0].numpy() == actions[:3]).all()
    assert (batch['action'][2, :2].numpy() == actions[3:]).all()
    padding = batch['action'][~batch['action_mask']]
    assert (padding[:, :6] == 0).all()
    assert (padding[:, 6] == float(actions[-1, 6])).all()


def test_a_chunk_never_reaches_into_the_next_episode(demos):
    dataset = DemonstrationDataset(load(demos).cache, 'all', horizon=20)
    batch = dataset.get_batch(np.arange(len(dataset)))
    lengths = {i: e.stop - e.start for i, e in enumerate(dataset.episodes)}
    starts = {i: e.start for i, e in enumerate(dataset.episodes)}
    for row, (episode, mask) in enumerate(zip(batch['episode'].tolist(), batch['action_mask'])):
        assert int(mask.sum()) == lengths[episode] - (row - starts[episode])


def test_one_sample_is_a_batch_of_one(demos):
    dataset = load(demos, horizon=4).train
    sample, batch = dataset[3], dataset.get_batch([3])
    assert set(sample) == set(batch)
    assert (sample['images']['front'] == batch['images']['front'][0]).all()
    assert sample['action'].shape == (4, 7)
    assert int(sample['episode']) == int(batch['episode'][0])


def test_another_process_maps_the_cache_instead_of_getting_a_copy(demos):
    dataset = load(demos, horizon=2).train
    assert len(pickle.dumps(dataset.cache)) < 1000
    again = copy.deepcopy(dataset)  # what a data loader process does
    assert again.cache.images['front'] is not dataset.cache.images['front']
    assert (again.get_batch([1])['action'] == dataset.get_batch([1])['action']).all()


def test_corrections_are_kept_with_the_samples_of_their_split(recorder):
    for i in range(8):
        recorder.record(f'e{i}', ticks=5, interventions=[(i % 5, True)] if i % 2 else [])
    loaded = load(recorder.root, val_fraction=0.4)
    for part in (loaded.train, loaded.val):
        expected = [
            tick >= int(e.name[1:]) % 5 and int(e.name[1:]) % 2 == 1
            for e in part.episodes
            for tick in range(5)
        ]
        assert part.corrections().tolist() == expected
    assert loaded.train.corrections().any() and not loaded.train.corrections().all()


def test_statistics_are_of_the_training_episodes_alone(demos):
    data = load(demos, val_fraction=0.4, seed=3)
    actions = np.concatenate([read_episode(e.path).index.actions for e in data.train.episodes])
    np.testing.assert_allclose(
        data.statistics.action_q99, np.quantile(actions.astype(float), 0.99, axis=0)
    )
    states = np.concatenate([read_episode(e.path).state for e in data.train.episodes])
    np.testing.assert_allclose(data.statistics.state_mean, states.mean(axis=0), rtol=1e-5)
    assert data.statistics.samples == len(data.train)
    assert sum(data.statistics.instructions.values()) == len(data.train.episodes)
    assert data.statistics.tasks == {'pick': len(data.train.episodes)}
    assert json.loads(json.dumps(data.statistics.to_dict())) == data.statistics.to_dict()


# -- the split ----------------------------------------------------------------------------------


def test_splits_are_disjoint_whole_episodes_and_stable(demos):
    data = load(demos, val_fraction=0.4)
    train = {e.name for e in data.train.episodes}
    val = {e.name for e in data.val.episodes}
    assert train
    assert val
    assert not train & val
    assert train | val == {f'ep{i}' for i in range(5)}
    rows = np.concatenate([data.train.rows, data.val.rows])
    assert sorted(rows.tolist()) == list(range(len(data.cache)))
    again = load(demos, val_fraction=0.4)
    assert {e.name for e in again.val.episodes} == val


def test_an_episode_keeps_its_side_when_others_come_and_go():
    names = [f'episode_{i}' for i in range(1000)]
    side = dict(zip(names, split_episodes(names, 0.1, 0)))
    fewer = names[::3]
    assert split_episodes(fewer, 0.1, 0) == [side[name] for name in fewer]
    assert 60 < sum(side.values()) < 140
    assert split_episodes(names, 0.1, 1) != list(side.values())
    # a larger share only adds
    assert all(big >= small for big, small in zip(split_episodes(names, 0.2, 0), side.values()))


@pytest.mark.parametrize('count', [2, 3, 5])
@pytest.mark.parametrize('fraction', [0.01, 0.99])
def test_neither_side_is_empty_where_there_are_two_episodes(count, fraction):
    chosen = split_episodes([str(i) for i in range(count)], fraction, 0)
    assert 0 < sum(chosen) < count


def test_fraction_zero_and_single_episodes_keep_everything_for_training(recorder):
    assert split_episodes(['a', 'b'], 0, 0) == [False, False]
    recorder.record('only')
    data = load(recorder.root)
    assert data.val is None
    assert len(data.train) == len(data.cache)


# -- when a cache is made again -----------------------------------------------------------------


def test_a_cache_is_reused_as_long_as_nothing_changes(demos):
    load(demos)
    first = built(demos)
    load(demos, horizon=3, val_fraction=0.5, seed=9)
    assert built(demos) == first


def test_a_cache_is_made_again_when_a_bag_changes(demos, recorder):
    before = load(demos)
    first = built(demos)
    shutil.rmtree(demos / 'ep1')
    recorder.record('ep1', ticks=9)
    after = load(demos)
    assert not set(built(demos)) & set(first)
    assert len(built(demos)) == 1  # the one it replaces is gone
    assert len(after.cache) != len(before.cache)
    recorder.record('new')
    assert len(load(demos).cache.episodes) == 6


def test_a_cache_is_made_again_when_the_embodiment_changes(demos, variant, tmp_path):
    load(demos)
    first = built(demos)
    other = variant(tmp_path, rate_hz=5.0).embodiment
    assert len(load(demos, embodiment=other).cache) < len(load(demos).cache)
    assert set(first) < set(built(demos))  # of another embodiment: both stay


def test_a_cache_is_made_again_when_its_layout_changes(demos, monkeypatch):
    load(demos)
    first = built(demos)
    monkeypatch.setattr(cache_module, 'CACHE_VERSION', 999)
    monkeypatch.setattr('vla_alignment_ros.data.build.CACHE_VERSION', 999)
    load(demos)
    assert not set(built(demos)) & set(first)


@pytest.mark.parametrize('damage', ['truncate', 'remove', 'manifest'])
def test_a_damaged_cache_is_made_again(demos, damage):
    expected = load(demos).train.get_batch([0])['images']['front'].clone()
    folder = demos / '.vla_cache' / next(iter(built(demos)))
    file = folder / ('manifest.json' if damage == 'manifest' else 'image_front.npy')
    if damage == 'remove':
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DatasetError, match='damaged'):
        DatasetCache(folder)
    assert (load(demos).train.get_batch([0])['images']['front'] == expected).all()


BUILD = """
import os, sys
from pathlib import Path
from vla_alignment_ros.data import build
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.cache import build_cache
root, crash = Path(sys.argv[1]), sys.argv[2] == 'crash'
if crash:
    build._save = lambda *arguments: os.kill(os.getpid(), 9)
episodes = find_episodes(root)
embodiment = EpisodeReader(episodes[0]).info.embodiment
cache = build_cache(episodes, embodiment, root / '.vla_cache', progress=False)
assert (cache.arrays['image_front'][0] != 0).any()
print(cache.path)
"""


def test_an_interrupted_build_leaves_nothing_that_is_taken_for_a_cache(demos):
    process = subprocess.run([sys.executable, '-c', BUILD, str(demos), 'crash'])
    assert process.returncode == -9
    assert built(demos) == {}
    assert len(find_episodes(demos)) == 5
    data = load(demos)
    names = sorted(os.listdir(demos / '.vla_cache'))
    assert [name for name in names if 'building' in name] == []
    batch = data.train.get_batch([0])
    assert (batch['images']['front'][0].numpy() != 0).any()


def test_builders_at_the_same_time_share_one_cache(demos):
    command = [sys.executable, '-c', BUILD, str(demos), 'whole']
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        paths = {str(data.cache.path) for data in pool.map(load, [demos] * 2)}
    for process in processes:
        paths.add(process.communicate()[0].strip())
        assert process.returncode == 0
    assert len(paths) == 1
    assert len(built(demos)) == 1


def test_bags_that_change_while_they_are_read_are_refused(demos, monkeypatch):
    fill = cache_module.fill

    def fill_and_touch(*arguments):
        fill(*arguments)
        os.utime(demos / 'ep2' / 'metadata.yaml', ns=(1, 1))

    monkeypatch.setattr(cache_module, 'fill', fill_and_touch)
    with pytest.raises(DatasetError, match='changed while they were read'):
        load(demos)
    assert built(demos) == {}


# -- what is refused ----------------------------------------------------------------------------


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match='record some first'):
        load(tmp_path)
    with pytest.raises(DatasetError, match='no folder'):
        load(tmp_path / 'absent')
    with pytest.raises(DatasetError, match='no folder at all'):
        load_dataset([])


def test_mixed_embodiments_are_refused_unless_one_is_named(demos, variant):
    other = variant(demos, rate_hz=5.0)
    other.record('other')
    with pytest.raises(DatasetError, match='cannot be mixed.*other'):
        load(demos)
    assert len(load(demos, embodiment=other.embodiment).cache.episodes) == 6


def damage_messages(path):
    file = next(path.glob('*.mcap'))
    os.truncate(file, file.stat().st_size // 2)


def damage_metadata(path):
    (path / 'metadata.yaml').write_text('{')


@pytest.mark.parametrize('damage', [damage_messages, damage_metadata])
def test_damaged_episodes_are_refused_or_left_out_and_counted(demos, damage, caplog):
    damage(demos / 'ep3')
    with pytest.raises(DatasetError, match=r'ep3.*skip_bad'):
        load(demos)
    data = load(demos, skip_bad=True)
    assert {e.name for e in data.cache.episodes} == {'ep0', 'ep1', 'ep2', 'ep4'}
    assert [Path(p).name for p in data.skipped] == ['ep3']
    assert 'left out' in caplog.text
    # reopened, the reason is still known
    assert [Path(p).name for p in load(demos, skip_bad=True).skipped] == ['ep3']


def test_an_image_that_lies_leaves_its_episode_out_and_the_others_whole(demos, recorder):
    whole = load(demos).train
    path, _, _ = recorder.record('liar')
    liar = next(path.glob('*.mcap'))
    # the encoding is only looked at when the image is decoded
    liar.write_bytes(liar.read_bytes().replace(b'rgb8', b'rgbX'))
    with pytest.raises(DatasetError, match='liar'):
        load(demos)
    data = load(demos, skip_bad=True)
    assert [Path(p).name for p in data.skipped] == ['liar']
    both = [DemonstrationDataset(d.cache, 'all', 2) for d in (whole, data)]
    batches = [d.get_batch(np.arange(len(d))) for d in both]
    assert (batches[0]['images']['front'] == batches[1]['images']['front']).all()
    assert (batches[0]['action'] == batches[1]['action']).all()


def test_nothing_left_is_refused(demos):
    for path in find_episodes(demos):
        damage_messages(path)
    with pytest.raises(DatasetError, match='none of 5'):
        load(demos, skip_bad=True)


def test_failed_episodes_are_left_out_unless_asked_for(demos, recorder):
    recorder.record('failed', success=False)
    recorder.record('unjudged', success=None)
    data = load(demos)
    assert {e.name for e in data.cache.episodes} == {*(f'ep{i}' for i in range(5)), 'unjudged'}
    assert list(data.skipped.values()) == ['marked as failed']
    assert len(load(demos, only_successful=False).cache.episodes) == 7


@pytest.mark.parametrize(
    'options, match', [({'split': 'test'}, 'allowed'), ({'horizon': 0}, 'horizon')]
)
def test_wrong_arguments_are_named(demos, options, match):
    with pytest.raises(DatasetError, match=match):
        DemonstrationDataset(load(demos).cache, **options)
    with pytest.raises(DatasetError, match='val_fraction'):
        load(demos, val_fraction=1.5)


# -- memory -------------------------------------------------------------------------------------

PEAK = """
import sys
from pathlib import Path
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.cache import build_cache
root = Path(sys.argv[1])
reader = EpisodeReader(root / 'ep')
if sys.argv[2] == 'read':
    for _ in reader.messages():
        pass
else:
    build_cache([root / 'ep'], reader.info.embodiment, root / 'cache', progress=False)
# not ru_maxrss: that one remembers the process we were forked from
print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])
"""


def test_memory_does_not_grow_with_the_bag(tmp_path, variant):
    peaks_kib = {'read': [], 'build': []}
    for factor in (1, 4):
        root = tmp_path / str(factor)
        recorder = variant(root, cameras=(Camera('front', 'front', 256, 192),))
        recorder.record('ep', ticks=40 * factor)  # 6 MB, 24 MB
        for what, peaks in peaks_kib.items():
            command = [sys.executable, '-c', PEAK, str(root), what]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(result.stdout))
    for small, large in peaks_kib.values():
        assert large / small < 1.05, peaks_kib
