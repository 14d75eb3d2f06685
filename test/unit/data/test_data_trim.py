"""Idle time is cut off, what holds on still holds, and the original stays."""

from acted_recordings import Actor, contents, START_NS
import numpy as np
import pytest
from recordings import PERIOD_NS, rewrite
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from vla_alignment_ros import wire
from vla_alignment_ros.data.activity import Stillness
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.bag_format import OfferedQos, rosbag_qos
from vla_alignment_ros.data.episode import index_episode, read_episode
from vla_alignment_ros.data.trim import plan_cut, write_cut
from vla_alignment_ros.errors import BagError

BEGIN, END, TICKS = 20, 40, 70  # it moves in [BEGIN, END)
STORAGES = [('mcap', None), ('mcap', 'zstd'), ('sqlite3', None), ('sqlite3', 'zstd')]


def moves(tick):
    return BEGIN <= tick < END


def trimmed(path, root, margin_s=0.5):
    cut = plan_cut(path, Stillness(), margin_s)
    write_cut(cut, root / path.name)
    return cut, root / path.name


@pytest.mark.parametrize('storage, compression', STORAGES[::3])
def test_what_is_left_is_what_happened_in_between(tmp_path, storage, compression):
    actor = Actor(tmp_path / 'demos', moves)
    path, _, _ = actor.record(ticks=TICKS, storage=storage, compression=compression)
    before, old = contents(path), read_episode(path)
    cut, new_path = trimmed(path, tmp_path / 'out')
    assert cut.before_s == pytest.approx(1.4, abs=0.11)
    assert cut.after_s == pytest.approx(2.4, abs=0.21)
    assert cut.left_s == pytest.approx(6.9 - cut.before_s - cut.after_s)
    new = read_episode(new_path)
    kept = np.isin(old.index.ticks_ns, new.index.ticks_ns)
    assert (new.index.ticks_ns == old.index.ticks_ns[kept]).all()
    assert kept.sum() == round(cut.left_s * 10) + 1
    for name, images in new.images.items():
        assert (images == old.images[name][kept]).all()
    assert (new.state == old.state[kept]).all()
    assert set(new.instructions) == set(old.instructions)
    assert contents(path) == before
    info = EpisodeReader(new_path).info
    assert info.files[0].endswith('.mcap' if storage == 'mcap' else '.db3')
    assert info.extra['task'] == 'pick' and 'trimmed' in info.extra


@pytest.mark.parametrize('storage, compression', STORAGES)
def test_storage_compression_definitions_and_qos_stay(tmp_path, storage, compression):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(
        ticks=TICKS, storage=storage, compression=compression
    )
    _, new_path = trimmed(path, tmp_path / 'out')
    with Reader(path) as old, Reader(new_path) as new:
        assert new.compression_format == old.compression_format
        assert new.compression_mode == old.compression_mode
        about = [
            {c.topic: (c.msgtype, c.msgdef.data, c.digest, c.ext.offered_qos_profiles)
             for c in bag.connections}
            for bag in (old, new)
        ]  # fmt: skip
        assert about[0] == about[1]
    if storage == 'mcap':
        for folder in (path, new_path):
            with Reader(next(folder.glob('*.mcap'))) as file:
                assert {c.compression for c in file.storage.chunks} == {compression or ''}


def test_an_instruction_that_was_said_long_before_holds(tmp_path):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(ticks=TICKS)
    _, new_path = trimmed(path, tmp_path / 'out')
    said = [m for m in EpisodeReader(new_path).messages() if m[0] == 'instruction']
    assert [wire.decode_string(raw) for _, _, _, raw in said] == ['Pick up the red cube.']
    first = next(iter(EpisodeReader(new_path).messages()))
    assert said[0][2] == first[2] > START_NS


def test_who_drives_still_holds(tmp_path):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(
        ticks=TICKS, interventions=[(2, True), (5, False), (9, True), (30, False)]
    )
    _, new_path = trimmed(path, tmp_path / 'out')
    old, new = index_episode(path), index_episode(new_path)
    kept = np.isin(old.ticks_ns, new.ticks_ns)
    assert (new.correction == old.correction[kept]).all()
    assert 0 < new.correction.sum() < len(new)


def test_what_is_latched_still_holds(tmp_path):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(ticks=TICKS)
    folder = tmp_path / 'robot'
    latched = rosbag_qos(OfferedQos(transient_local=True))
    with Reader(path) as old, Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as new:
        for key, value in old.storage.metadata.custom.items():
            new.set_custom_data(key, value)
        made = {
            c.topic: new.add_connection(
                c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest,
                offered_qos_profiles=c.ext.offered_qos_profiles,
            )
            for c in old.connections
        }  # fmt: skip
        said = next(c for c in old.connections if c.topic == '/instruction')
        urdf, chatter = (
            new.add_connection(
                topic, said.msgtype, msgdef=said.msgdef.data, rihs01=said.digest,
                offered_qos_profiles=qos,
            )
            for topic, qos in (('/robot_description', [latched]), ('/chatter', []))
        )  # fmt: skip
        for connection in (urdf, chatter):
            new.write(connection, START_NS, wire.encode_string(connection.topic))
        for connection, ts_ns, raw in old.messages():
            new.write(made[connection.topic], ts_ns, raw)
    _, new_path = trimmed(folder, tmp_path / 'out')
    kept = [(topic, log_ns) for topic, _, log_ns, _ in EpisodeReader(new_path).messages()]
    first_ns = kept[0][1]
    assert ('robot_description', first_ns) in kept and first_ns > START_NS
    assert 'chatter' not in dict(kept)


def test_an_episode_without_idle_time_is_copied_as_it_is(tmp_path):
    path, _, _ = Actor(tmp_path / 'demos').record(ticks=30)
    cut, new_path = trimmed(path, tmp_path / 'out')
    assert not cut.any
    assert list(EpisodeReader(new_path).messages()) == list(EpisodeReader(path).messages())
    assert EpisodeReader(new_path).info.extra == EpisodeReader(path).info.extra


def test_trimming_twice_cuts_no_more(tmp_path):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(ticks=TICKS)
    _, once = trimmed(path, tmp_path / 'once')
    cut, twice = trimmed(once, tmp_path / 'twice')
    assert not cut.any
    assert EpisodeReader(twice).info.extra == EpisodeReader(once).info.extra


def test_stamps_decide_where_arrival_is_of_another_clock(tmp_path):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(ticks=TICKS)
    year_ns = 365 * 24 * 3600 * 10**9
    wall = rewrite(path, tmp_path / 'wall', lambda t, log_ns, raw: (log_ns + year_ns, raw))
    cuts = [trimmed(p, tmp_path / f'out{i}')[0] for i, p in enumerate((path, wall))]
    assert cuts[0].before_s == cuts[1].before_s and cuts[0].after_s == cuts[1].after_s
    assert len(index_episode(tmp_path / 'out1' / wall.name)) == len(
        index_episode(tmp_path / 'out0' / path.name)
    )


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path, monkeypatch):
    path, _, _ = Actor(tmp_path / 'demos', moves).record(ticks=TICKS)
    cut, new_path = trimmed(path, tmp_path / 'out')
    there = contents(tmp_path)
    with pytest.raises(BagError, match='exists already'):
        write_cut(cut, new_path)

    def fails(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', fails)
    with pytest.raises(BagError, match='No space left'):
        write_cut(cut, tmp_path / 'out' / 'other')
    assert contents(tmp_path) == there
    assert [entry.name for entry in (tmp_path / 'out').iterdir()] == [path.name]


def test_an_arm_that_never_moves_is_named(tmp_path):
    path, _, _ = Actor(tmp_path, lambda tick: False).record(ticks=20)
    with pytest.raises(BagError, match='nothing moves'):
        plan_cut(path, Stillness(), 0.5)


def test_a_gripper_that_is_told_to_close_at_the_end_is_kept(tmp_path):
    actor = Actor(tmp_path, moves)
    act = actor.action

    def closing(tick, ticks):
        action = act(tick, ticks)
        action[6] = float(tick < 50)
        return action

    actor.action = closing
    path, _, _ = actor.record(ticks=TICKS)
    cut = plan_cut(path, Stillness(), 0.5)
    assert cut.stop_ns >= START_NS + 50 * PERIOD_NS + 0.5e9
