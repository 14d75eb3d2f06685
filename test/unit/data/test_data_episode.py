from dataclasses import replace

import numpy as np
import pytest
from recordings import Recorder, rewrite

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter
from vla_alignment_ros.data.episode import index_episode, keyframes, read_episode
from vla_alignment_ros.embodiment import Camera, CommandSpec, Embodiment
from vla_alignment_ros.errors import DatasetError
from vla_alignment_ros.observation import normalize_instruction, ObservationAssembler

PERIOD_NS = 100_000_000


def assert_same(a, b):
    assert (a.index.ticks_ns == b.index.ticks_ns).all()
    assert (a.index.actions == b.index.actions).all()
    assert (a.index.chunk_stop == b.index.chunk_stop).all()
    assert (a.state == b.state).all()
    assert a.instructions == b.instructions
    for name, images in a.images.items():
        assert (images == b.images[name]).all()


@pytest.mark.parametrize(
    'cameras',
    [
        (Camera('front', 'front', 16, 12),),
        (Camera('front', 'front', 16, 12), Camera('wrist', 'wrist', 8, 8)),
    ],
)
def test_dataset_and_live_policy_see_the_same_bits(tmp_path, variant, cameras):
    recorder = variant(tmp_path, cameras=cameras)
    path, raws, actions = recorder.record(ticks=7)
    episode = read_episode(path)
    live = ObservationAssembler(recorder.embodiment)
    assert len(episode.index) == 7
    for row, raw in enumerate(raws):
        observation = live.assemble(int(episode.index.ticks_ns[row]), raw)
        for name, image in observation.images.items():
            assert episode.images[name][row].tobytes() == image.tobytes()
        assert episode.state[row].tobytes() == observation.state.tobytes()
        assert episode.instructions[row] == observation.instruction
    np.testing.assert_allclose(episode.index.actions, actions, rtol=1e-6, atol=1e-8)


def test_the_shipped_robot_is_read_bit_for_bit_and_its_hand_gives_keyframes(tmp_path):
    recorder = Recorder(tmp_path, Embodiment.load('tabletop'))
    path, raws, _ = recorder.record(ticks=4)  # closes at tick 2
    episode = read_episode(path)
    live = ObservationAssembler(recorder.embodiment)
    states = np.array([live.assemble(0, raw).state for raw in raws])
    assert episode.state.tobytes() == states.tobytes()
    hand = states[:, [live.state_names.index(name) for name in ('ee_x', 'ee_y', 'ee_z')]]
    assert (episode.keyframe_position == hand[[2, 2, 2, 3]]).all()
    assert episode.keyframe_gripper.tolist() == [0.0] * 4


def test_larger_images_are_brought_to_the_size_of_the_embodiment(tmp_path, variant):
    big = variant(tmp_path / 'big', cameras=(Camera('front', 'front', 32, 24),))
    path, raws, _ = big.record(ticks=3)
    small = variant(tmp_path / 'small', cameras=(Camera('front', 'front', 16, 12),)).embodiment
    episode = read_episode(path, small)
    assert episode.images['front'].shape == (3, 12, 16, 3)
    expected = ObservationAssembler(small).assemble(0, raws[1]).images['front']
    assert (episode.images['front'][1] == expected).all()


def test_log_times_do_not_matter_where_messages_have_headers(tmp_path, recorder):
    """Recorded live: the log is in wall time and late, the stamps are simulated time."""
    path, _, _ = recorder.record(ticks=8)
    wall = 1_700_000_000_000_000_000
    step = iter(range(10_000))
    rng = np.random.default_rng(1)

    def live(topic, log_ns, raw):
        return wall + next(step) * 7_000_000 + int(rng.integers(0, 3_000_000)), raw

    assert_same(read_episode(path), read_episode(rewrite(path, tmp_path / 'live', live)))


def test_a_gripper_that_is_logged_after_its_twist_still_belongs_to_it(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=8)

    def late(topic, log_ns, raw):
        return log_ns + (30_000_000 if topic == 'cmd/gripper' else 0), raw

    assert_same(read_episode(path), read_episode(rewrite(path, tmp_path / 'late', late)))


def test_an_instruction_that_is_logged_late_holds_from_the_beginning(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=5)

    def late(topic, log_ns, raw):
        return log_ns + (250_000_000 if topic == 'instruction' else 0), raw

    assert_same(read_episode(path), read_episode(rewrite(path, tmp_path / 'late', late)))


def test_the_custom_data_speak_where_no_instruction_was_recorded(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=5)
    silent = rewrite(path, tmp_path / 's', lambda t, n, r: None if t == 'instruction' else (n, r))
    assert_same(read_episode(path), read_episode(silent))


def test_an_instruction_that_changes_holds_from_its_tick_on(tmp_path, recorder):
    with EpisodeWriter(tmp_path, recorder.embodiment) as writer:
        for tick in range(6):
            ts_ns = (1 + tick) * PERIOD_NS
            if tick in (0, 3):
                said = wire.encode_string(f'Do thing {tick}!')
                recorder.write(writer, 'instruction', ts_ns, said)
            for topic, raw in recorder.observation(ts_ns).items():
                recorder.write(writer, topic, ts_ns, raw)
            for topic, raw in recorder.codec.encode(np.zeros(7), ts_ns).items():
                recorder.write(writer, topic, ts_ns, raw)
        path = writer.finish(True)
    assert read_episode(path).instructions == ('do thing 0',) * 3 + ('do thing 3',) * 3


def test_observations_are_never_from_the_future(tmp_path, recorder):
    """Cameras slower than the control rate: a tick sees the last frame, not the coming one."""
    frames = {}
    with EpisodeWriter(tmp_path, recorder.embodiment) as writer:
        recorder.write(writer, 'instruction', 0, wire.encode_string('go'))
        for tick in range(12):
            ts_ns = tick * PERIOD_NS
            for topic, raw in recorder.observation(ts_ns).items():
                if topic == 'joint_states' or tick % 3 == 0:
                    recorder.write(writer, topic, ts_ns, raw)
                    frames.setdefault(topic, []).append((ts_ns, raw))
            # the command follows a little later and carries its own stamp
            for topic, raw in recorder.codec.encode(np.zeros(7), ts_ns + 40_000_000).items():
                recorder.write(writer, topic, ts_ns + 40_000_000, raw)
        path = writer.finish(True)
    episode = read_episode(path)
    assert len(episode.index) == 12
    for row, tick_ns in enumerate(episode.index.ticks_ns):
        newest = [raw for ts_ns, raw in frames['front/image_raw'] if ts_ns <= tick_ns][-1]
        assert (episode.images['front'][row] == wire.decode_image(newest).image).all()


def test_teleoperation_faster_than_the_control_rate_is_sampled_at_the_control_rate(
    tmp_path, recorder
):
    sent = {}
    with EpisodeWriter(tmp_path, recorder.embodiment) as writer:
        recorder.write(writer, 'instruction', 0, wire.encode_string('go'))
        for tick in range(100):  # 50 Hz
            ts_ns = tick * 20_000_000
            for topic, raw in recorder.observation(ts_ns).items():
                recorder.write(writer, topic, ts_ns, raw)
            action = recorder.action(tick, 100)
            for topic, raw in recorder.codec.encode(action, ts_ns).items():
                recorder.write(writer, topic, ts_ns, raw)
            sent[ts_ns] = action
        path = writer.finish(True)
    index = index_episode(path)
    assert (np.diff(index.ticks_ns) == PERIOD_NS).all()
    assert len(index) == 20
    expected = np.array([sent[tick] for tick in index.ticks_ns.tolist()])
    np.testing.assert_allclose(index.actions, expected, rtol=1e-6, atol=1e-8)


def test_messages_that_arrive_out_of_order_are_placed_by_their_stamps(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=8)
    late = {2: 330_000_000, 5: 120_000_000}

    def shuffle(topic, log_ns, raw):
        tick = (log_ns - 1_000_000_000) // PERIOD_NS
        return log_ns + (late.get(tick, 0) if topic == 'front/image_raw' else 0), raw

    assert_same(read_episode(path), read_episode(rewrite(path, tmp_path / 'late', shuffle)))


def test_ticks_before_every_source_is_present_are_dropped_and_counted(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=6)

    def without_first_wrists(topic, log_ns, raw):
        missing = topic == 'wrist' and log_ns < 1_000_000_000 + 2 * PERIOD_NS
        return None if missing else (log_ns, raw)

    episode = read_episode(rewrite(path, tmp_path / 'late', without_first_wrists))
    whole = read_episode(path)
    assert episode.index.dropped == {'wrist missing': 2}
    assert (episode.index.ticks_ns == whole.index.ticks_ns[2:]).all()
    assert (episode.state == whole.state[2:]).all()
    # the actions of dropped ticks are still there for nobody, those of kept ticks are in place
    assert (episode.index.chunk_start == [2, 3, 4, 5]).all()


def test_sources_that_are_too_old_drop_their_ticks(tmp_path, variant):
    recorder = variant(tmp_path / 'r', max_age_s={'front': 0.15})
    path, _, _ = recorder.record(ticks=8)

    def camera_stalls(topic, log_ns, raw):
        tick = (log_ns - 1_000_000_000) // PERIOD_NS
        return None if topic == 'front/image_raw' and 3 <= tick <= 5 else (log_ns, raw)

    index = index_episode(rewrite(path, tmp_path / 'stall', camera_stalls))
    assert index.dropped == {'front too old': 2}
    assert ((index.ticks_ns - 1_000_000_000) // PERIOD_NS).tolist() == [0, 1, 2, 3, 6, 7]
    # commands went on: a chunk may reach over the dropped observations
    assert index.chunk_stop.tolist() == [8] * 6


def test_chunks_end_where_commands_pause(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=8)

    def pause(topic, log_ns, raw):
        tick = (log_ns - 1_000_000_000) // PERIOD_NS
        return None if topic.startswith('cmd') and 3 <= tick <= 4 else (log_ns, raw)

    index = index_episode(rewrite(path, tmp_path / 'pause', pause))
    assert index.chunk_start.tolist() == [0, 1, 2, 3, 4, 5]
    assert index.chunk_stop.tolist() == [3, 3, 3, 6, 6, 6]


def test_a_joint_space_embodiment_without_command_headers_is_read_too(tmp_path, variant):
    names = tuple('abcdef')
    base = variant(tmp_path).embodiment.action
    recorder = variant(
        tmp_path,
        joint_names=names,
        action=replace(base, space='joint_position', names=(*names, 'gripper')),
        command=CommandSpec('multi_array', {'command': 'cmd'}),
    )
    path, _, actions = recorder.record(ticks=5)
    episode = read_episode(path)
    assert len(episode.index) == 5
    np.testing.assert_allclose(episode.index.actions, actions, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'missing', ['front/image_raw', 'wrist', 'joint_states', 'cmd/twist', 'cmd/gripper']
)
def test_a_missing_topic_is_named_with_what_there_is(tmp_path, recorder, missing):
    path, _, _ = recorder.record()
    broken = rewrite(path, tmp_path / 'b', lambda t, n, r: None if t == missing else (n, r))
    with pytest.raises(DatasetError, match=f'{broken.name}.*{missing}.*recorded were'):
        index_episode(broken)


def test_a_topic_of_another_type_is_named(tmp_path, variant):
    path, _, _ = variant(tmp_path).record()
    other = variant(tmp_path, cameras=(Camera('front', 'front/image_raw', 8, 8, True),)).embodiment
    with pytest.raises(DatasetError, match=r'front/image_raw.*carries sensor_msgs/msg/Image'):
        index_episode(path, other)


def test_a_broken_message_names_episode_and_topic(tmp_path, recorder):
    path, _, _ = recorder.record()
    bad = rewrite(path, tmp_path / 'b', lambda t, n, r: (n, r[:200] if t == 'wrist' else r))
    with pytest.raises(DatasetError, match=f'{bad.name}.*wrist'):
        read_episode(bad)


def test_an_episode_without_a_usable_tick_says_why(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=3)

    def future(topic, log_ns, raw):
        if topic != 'wrist':
            return log_ns, raw
        return log_ns, wire.encode_image(np.zeros((8, 8, 3), np.uint8), 10**12, 'wrist')

    with pytest.raises(DatasetError, match='wrist missing 3'):
        index_episode(rewrite(path, tmp_path / 'b', future))


def test_keyframes_are_where_the_gripper_changes_next(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=8)  # closes at tick 4
    index = index_episode(path)
    names = ('x', 'ee_x', 'ee_y', 'ee_z')
    state = np.arange(32, dtype=np.float32).reshape(8, 4)
    position, gripper = keyframes(index, state, names)
    expected = [4, 4, 4, 4, 4, 7, 7, 7]
    assert (position == state[expected, 1:]).all()
    assert (gripper == index.actions[expected, 6]).all()
    nowhere, gripper = keyframes(index, state, ('x', 'y', 'z', 'w'))
    assert nowhere is None
    assert gripper.tolist() == [0.0] * 8


def test_a_keyframe_on_a_dropped_tick_is_the_next_sample(tmp_path, recorder):
    path, _, _ = recorder.record(ticks=8)
    index = index_episode(path)
    keep = np.array([0, 1, 2, 3, 6, 7])
    index = replace(
        index,
        ticks_ns=index.ticks_ns[keep],
        chunk_start=index.chunk_start[keep],
        chunk_stop=index.chunk_stop[keep],
    )
    state = np.arange(18, dtype=np.float32).reshape(6, 3)
    position, _ = keyframes(index, state, ('ee_x', 'ee_y', 'ee_z'))
    assert (position == state[[4, 4, 4, 4, 5, 5]]).all()


def test_a_correction_is_every_tick_from_take_over_to_hand_back(recorder):
    flags = [(0, False), (2, True), (5, False), (8, True)]
    path, *_ = recorder.record(ticks=9, interventions=flags)
    correction = index_episode(path).correction
    assert correction.tolist() == [t in (2, 3, 4, 8) for t in range(9)]


def test_nobody_took_over_where_the_topic_is_absent(recorder):
    path, *_ = recorder.record(ticks=5)
    correction = index_episode(path).correction
    assert correction.dtype == bool and correction.tolist() == [False] * 5


def test_corrections_in_simulated_time_are_found_by_the_order_of_the_bag(tmp_path, recorder):
    path, *_ = recorder.record(ticks=6, interventions=[(2, True), (4, False)])
    day = 86_400 * 10**9
    logged = rewrite(path, tmp_path / 'wall', lambda topic, ts_ns, raw: (ts_ns + day, raw))
    assert index_episode(logged).correction.tolist() == [t in (2, 3) for t in range(6)]


def test_an_intervention_of_another_type_or_that_is_broken_is_named(tmp_path, recorder):
    for name, msgtype, raw, reason in (
        ('type', 'std_msgs/msg/Int8', wire.encode_bool(True), "'intervention' carries std_msgs/"),
        ('broken', 'std_msgs/msg/Bool', b'\x00\x01\x00\x00', 'broken std_msgs/msg/Bool'),
    ):
        with EpisodeWriter(tmp_path / name, recorder.embodiment) as writer:
            source, *_ = recorder.record(name, ticks=3)
            for topic, kind, ts_ns, message in EpisodeReader(source).messages():
                writer.write(topic, kind, ts_ns, message)
            writer.write('intervention', msgtype, 1_000_000_000, raw)
            path = writer.finish(True, {})
        with pytest.raises(DatasetError, match=reason):
            index_episode(path)


def test_the_instruction_of_a_sample_is_normalised(recorder):
    path, _, _ = recorder.record(instruction='  Pick up the RED cube. ')
    assert read_episode(path).instructions[0] == normalize_instruction('pick up the red cube')
