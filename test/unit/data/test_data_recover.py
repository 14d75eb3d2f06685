"""What was cut off becomes a whole bag again, and the original is safe until it has."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import random
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
import pytest
from recordings import make_embodiment
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from vla_alignment_ros import wire
from vla_alignment_ros.data import recover
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter, find_episodes, OfferedQos
from vla_alignment_ros.data.bag_places import (
    bag_in,
    Place,
    remove_shells,
    storage_files,
    unfinished,
)
from vla_alignment_ros.data.bag_writer import BagWriter
from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.data.recover import find_damaged, recover_recording
from vla_alignment_ros.errors import BagError

STRING = 'std_msgs/msg/String'
WAYS = [('mcap', None), ('mcap', 'zstd'), ('sqlite3', None), ('sqlite3', 'zstd')]


def texts(count: int, size: int = 2_000) -> list[bytes]:
    """Distinct messages that do not compress."""
    rng = random.Random(0)
    return [wire.encode_string(f'{i} ' + rng.randbytes(size // 2).hex()) for i in range(count)]


def cut_off(root: Path, embodiment, raws: list[bytes], name: str = 'take', **options) -> Path:
    """What a recorder leaves that ends after `raws` were given to the operating system."""
    writer = EpisodeWriter(root, embodiment, name, **options)
    writer.set_instruction('pick up the red cube')
    for ts_ns, raw in enumerate(raws, 1):
        writer.write('a', STRING, ts_ns, raw)
    writer._bag.flush()
    writer._bag.abort()
    writer._place.leave()
    return writer._place.partial


def messages(path: Path) -> list[tuple]:
    return list(EpisodeReader(path).messages())


@pytest.mark.parametrize('storage, compression', WAYS)
@pytest.mark.parametrize('split_bytes', [0, 300_000])
def test_what_was_cut_off_becomes_an_episode_with_all_that_was_known(
    tmp_path, embodiment, storage, compression, split_bytes
):
    raws = texts(400)
    partial = cut_off(
        tmp_path, embodiment, raws, storage=storage, compression=compression,
        split_bytes=split_bytes, offered=lambda topic: [OfferedQos(False, True, 0)],
    )  # fmt: skip
    assert unfinished(tmp_path) == find_damaged(tmp_path) == [partial]
    done = recover_recording(partial)
    assert (done.path, done.counts, done.new) == (tmp_path / 'take', {'a': 400}, True)
    assert os.listdir(tmp_path) == ['take']
    assert messages(done.path) == [('a', STRING, i, raw) for i, raw in enumerate(raws, 1)]
    info = EpisodeReader(done.path).info
    assert (info.instruction, info.success) == ('pick up the red cube', None)
    assert info.embodiment == embodiment
    assert info.extra['recovered'].startswith('.take.partial ')
    assert (len(info.files) > 1) == bool(split_bytes)
    with Reader(done.path) as reader:
        (connection,) = reader.connections
        (qos,) = connection.ext.offered_qos_profiles
        assert connection.digest.startswith('RIHS01_')
        assert (qos.reliability.name, qos.durability.name) == ('BEST_EFFORT', 'TRANSIENT_LOCAL')
        assert [raw for _, _, raw in reader.messages(reader.connections)] == raws
    assert find_damaged(tmp_path) == []


class Foreign:
    """A whole bag, and its messages; not a dataclass, because hypothesis would print them all."""

    def __init__(self, path: Path, raws: list[bytes]) -> None:
        self.path, self.raws = path, raws


@pytest.fixture(scope='module', params=WAYS, ids=str)
def foreign(request, tmp_path_factory) -> Foreign:
    storage, compression = request.param
    raws = texts(300)
    with EpisodeWriter(
        tmp_path_factory.mktemp('foreign'), make_embodiment(), 'foreign', storage, compression
    ) as writer:
        for ts_ns, raw in enumerate(raws, 1):
            writer.write('a', STRING, ts_ns, raw)
        return Foreign(writer.finish(True, {'seed': '7'}), raws)


def surely_saved(file: Path, size: int, raws: list[bytes]) -> int:
    """How many of the first messages lie before `size`, whatever is read of the rest."""
    if file.suffix == '.db3':  # pages are in order, but for the few that lead to them
        return max(0, int(len(raws) * (size / file.stat().st_size - 0.1)))
    with file.open('rb') as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
    if not chunks[0].compression:
        data = file.read_bytes()
        return sum(data.index(raw) + len(raw) <= size for raw in raws)
    whole = [c for c in chunks if c.chunk_start_offset + c.chunk_length <= size]
    return max((chunk.message_end_time for chunk in whole), default=0)


@settings(deadline=None, max_examples=8)
@given(share=st.floats(0.0, 1.0))
def test_of_a_truncated_bag_everything_before_the_cut_is_saved(foreign, tmp_path_factory, share):
    path, raws, root = foreign.path, foreign.raws, tmp_path_factory.mktemp('cut')
    copy = shutil.copytree(path, root / 'foreign')
    (original,), (file,) = storage_files(path), storage_files(copy)
    size = int(original.stat().st_size * share)
    os.truncate(file, size)
    before = file.read_bytes()
    expected = surely_saved(original, size, raws)
    if not expected:
        with suppress(BagError):  # there may be nothing
            recover_recording(copy)
        assert file.read_bytes() == before
        return
    done = recover_recording(copy)
    assert file.read_bytes() == before
    saved = [raw for _, _, _, raw in messages(done.path)]
    assert saved == [raw for raw in raws if raw in set(saved)]  # in order, each once
    assert len(saved) >= expected
    if original.suffix == '.mcap':
        assert saved == raws[: len(saved)]
    if done.path == copy:  # the cut took nothing that anybody reads
        assert saved == raws
        return
    info = EpisodeReader(done.path).info
    assert (info.path.name, info.success) == ('foreign_recovered', None)
    assert (info.extra['seed'], info.extra['recovered']) == ('7', 'foreign')
    again = recover_recording(copy)
    assert (again.path, again.counts, again.new) == (done.path, done.counts, False)


def test_a_living_recorder_is_left_alone(tmp_path, embodiment):
    with EpisodeWriter(tmp_path, embodiment, 'running') as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        writer._bag.flush()
        assert unfinished(tmp_path) == []
        with pytest.raises(BagError, match='being recorded just now'):
            recover_recording(writer._place.partial)
        writer.finish(True)
    assert os.listdir(tmp_path) == ['running']


@pytest.mark.parametrize('step', ['close', 'move', 'remove', 'rmtree'])
def test_killed_anywhere_and_called_again_it_ends_with_the_same(tmp_path, embodiment, step):
    raws = texts(200)
    partial = cut_off(tmp_path, embodiment, raws)
    (file,) = storage_files(bag_in(partial))
    before = file.read_bytes()
    owner = {'close': BagWriter, 'move': Place, 'remove': Place, 'rmtree': recover.shutil}[step]
    call = getattr(owner, step)

    def kill(*arguments, **options):
        if step != 'rmtree' or arguments[0] == partial:
            os._exit(7)
        return call(*arguments, **options)

    child = os.fork()
    if not child:
        setattr(owner, step, kill)
        try:
            recover_recording(partial)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert file.read_bytes() == before
    done = recover_recording(partial)
    assert done.new == (step in ('close', 'move'))
    assert [raw for _, _, _, raw in messages(done.path)] == raws
    assert os.listdir(tmp_path) == ['take']


def test_without_room_for_the_new_bag_the_old_one_stays(tmp_path, embodiment, monkeypatch):
    partial = cut_off(tmp_path, embodiment, texts(200))

    def full(self):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(BagWriter, 'flush', full)
        with pytest.raises(BagError, match='No space left'):
            recover_recording(partial)
    assert os.listdir(tmp_path) == ['.take.partial']
    assert recover_recording(partial).counts == {'a': 200}


def test_what_was_cut_off_between_its_end_and_its_place_keeps_its_verdict(
    tmp_path, embodiment, monkeypatch
):
    def kill(self):
        raise KeyboardInterrupt

    writer = EpisodeWriter(tmp_path, embodiment, 'take')
    writer.write('a', STRING, 1, texts(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(Place, 'move', kill)
        with pytest.raises(KeyboardInterrupt):
            writer.finish(False, {'seed': '7'})
    writer._place.leave()
    info = EpisodeReader(recover_recording(writer._place.partial).path).info
    assert (info.success, info.extra['seed']) == (False, '7')


def test_an_empty_shell_beside_a_finished_episode_is_removed_by_the_next_recorder(
    tmp_path, embodiment, monkeypatch
):
    writer = EpisodeWriter(tmp_path, embodiment, 'take')
    writer.write('a', STRING, 1, texts(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(Place, 'remove', lambda self: None)  # killed just before
        writer.finish(True)
    remove_shells(tmp_path)  # it still lives
    cut_off(tmp_path, embodiment, texts(1), 'other')
    assert sorted(os.listdir(tmp_path)) == ['.other.partial', '.take.partial', 'take']
    writer._place.leave()
    EpisodeRecorder(tmp_path, embodiment).close()
    assert sorted(os.listdir(tmp_path)) == ['.other.partial', 'take']


def test_an_episode_of_that_name_is_not_taken_for_the_recovered_one(tmp_path, embodiment):
    partial = cut_off(tmp_path, embodiment, texts(3), 'one')
    partial.rename(tmp_path / 'aside')
    with EpisodeWriter(tmp_path, embodiment, 'one') as writer:
        writer.write('a', STRING, 1, texts(1)[0])
        other = writer.finish(True)
    (tmp_path / 'aside').rename(partial)
    done = recover_recording(partial)
    assert (done.path.name, done.counts) == ('one_recovered', {'a': 3})
    assert EpisodeReader(other).info.message_counts == {'a': 1}
    assert find_episodes(tmp_path) == [other, done.path]


def test_one_damaged_chunk_costs_no_other(tmp_path, embodiment):
    raws = texts(400)
    partial = cut_off(tmp_path, embodiment, raws, compression='zstd')
    (file,) = storage_files(bag_in(partial))
    data = bytearray(file.read_bytes())
    place = data.index(b'\x28\xb5\x2f\xfd', len(data) // 2)
    data[place : place + 4] = bytes(4)
    file.write_bytes(data)
    saved = [raw for _, _, _, raw in messages(recover_recording(partial).path)]
    assert saved[0] == raws[0] and saved[-1] == raws[-1]
    assert saved == [raw for raw in raws if raw in set(saved)] and 200 < len(saved) < 400


@pytest.mark.parametrize(
    'garbage',
    [b'', b'\x89MCAP0\r\n', random.Random(0).randbytes(5_000)],
    ids=['nothing', 'magic', 'noise'],
)
@pytest.mark.parametrize('suffix', ['.mcap', '.db3'])
def test_garbage_is_refused_and_stays(tmp_path, suffix, garbage):
    (tmp_path / 'bag').mkdir()
    file = tmp_path / 'bag' / f'bag{suffix}'
    file.write_bytes(garbage)
    assert find_damaged(tmp_path) == [tmp_path / 'bag']
    with pytest.raises(BagError):
        recover_recording(tmp_path / 'bag')
    assert file.read_bytes() == garbage and os.listdir(tmp_path) == ['bag']


def test_a_bag_of_ros_without_our_notes_is_recovered_with_its_own_types(tmp_path):
    kind, text = 'other_msgs/msg/Odd', 'float64 x\n'
    with Writer(tmp_path / 'ros', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        odd = writer.add_connection('/odd', kind, msgdef=text, rihs01='RIHS01_' + 64 * '0')
        for ts_ns in range(300):
            writer.write(odd, ts_ns, b'\x00\x01\x00\x00' + random.Random(ts_ns).randbytes(8_000))
    (file,) = storage_files(tmp_path / 'ros')
    os.truncate(file, file.stat().st_size - 100)
    assert find_damaged(tmp_path) == [tmp_path / 'ros']
    (tmp_path / 'ros' / 'metadata.yaml').unlink()
    done = recover_recording(tmp_path / 'ros')
    assert done.counts == {'odd': 300}
    with Reader(done.path) as reader:
        (connection,) = reader.connections
        assert (connection.msgtype, connection.msgdef.data) == (kind, text)
    assert EpisodeReader(done.path).info.embodiment is None
    assert find_damaged(tmp_path) == [tmp_path / 'ros']  # somebody else's: it stays


def test_a_whole_bag_is_left_as_it_is(recorder):
    path, _, _ = recorder.record('one')
    assert find_damaged(recorder.root) == []
    done = recover_recording(path)
    assert (done.path, done.new) == (path, False)
    assert os.listdir(recorder.root) == ['one']
