"""The headless recorder writes what the wire would have carried, whole episodes only."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.control.codecs import make_codec
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import SimulationError
from vla_alignment_ros.sim.expert import Expert
from vla_alignment_ros.sim.record import record, record_episode, RecordOptions
from vla_alignment_ros.sim.spec import EpisodeSpec
from vla_alignment_ros.sim.stream import (
    apply_action,
    camera_info_messages,
    instruction_message,
    observation_messages,
)
from vla_alignment_ros.sim.tasks import sample_episode
from vla_alignment_ros.sim.world import SceneConfig, TabletopWorld


@pytest.fixture(scope='module')
def embodiment():
    return Embodiment.load('tabletop')


@pytest.fixture(scope='module')
def episode(tmp_path_factory, embodiment):
    spec = sample_episode(5, 'train')
    return spec, record_episode(spec, tmp_path_factory.mktemp('bags'), embodiment)


def test_an_episode_says_what_it_is(episode, embodiment):
    spec, path = episode
    info = EpisodeReader(path).info
    assert info.instruction == spec.instruction
    assert info.success is True
    assert info.embodiment == embodiment
    assert info.extra['split'] == 'train'
    assert info.extra['seed'] == '5'
    assert EpisodeSpec.from_dict(json.loads(info.extra['episode'])) == spec
    steps = info.message_counts['joint_states']
    assert steps > 10
    for topic in embodiment.topics():
        assert info.message_counts[topic] == (1 if topic == 'instruction' else steps)


def test_a_tick_is_observation_then_command_with_one_stamp(episode, embodiment):
    _, path = episode
    messages = list(EpisodeReader(path).messages())
    assert [m[0] for m in messages[:1]] == ['instruction']
    ticks: dict[int, list[str]] = {}
    for topic, msgtype, ts_ns, raw in messages[1:]:
        ticks.setdefault(ts_ns, []).append(topic)
        if 'std_msgs' not in msgtype:
            assert wire.stamp_ns(raw, msgtype) == ts_ns
    stamps = np.array(sorted(ticks))
    assert set(np.diff(stamps)) == {100_000_000}
    commands = make_codec(embodiment).topics
    for topics in ticks.values():
        assert set(topics[-2:]) == set(commands)
        silent = {'instruction', 'intervention'}
        assert set(topics) == set(embodiment.recorded_topics()) - silent


def test_replaying_the_recorded_commands_reproduces_the_recorded_bytes(episode, embodiment):
    spec, path = episode
    codec = make_codec(embodiment)
    ticks: dict[int, dict[str, bytes]] = {}
    for topic, _, ts_ns, raw in EpisodeReader(path).messages():
        ticks.setdefault(ts_ns, {})[topic] = bytes(raw)
    with TabletopWorld() as world:
        world.reset(spec)
        for ts_ns, recorded in ticks.items():
            assert world.time_ns == ts_ns
            for topic, raw in observation_messages(world, embodiment).items():
                assert raw == recorded[topic], topic
            apply_action(world, embodiment, codec.decode(recorded))
        assert world.status().success


def test_the_recorded_command_is_the_clean_intention(embodiment, tmp_path):
    spec = next(s for s in map(sample_episode, range(50)) if s.disturbance.events)
    path = record_episode(spec, tmp_path, embodiment)
    first = {t: bytes(raw) for t, _, ts, raw in EpisodeReader(path).messages() if ts == 10**9}
    with TabletopWorld() as world:
        world.reset(spec)
        expert = Expert(world)
        expert.reset(spec)
        action = make_codec(embodiment).decode(first)
        np.testing.assert_array_equal(action, expert.action())


def test_failed_episodes_leave_no_trace_unless_asked_for(embodiment, tmp_path):
    spec = sample_episode(0, 'absent')
    with TabletopWorld(SceneConfig(max_steps=4)) as world:
        assert record_episode(spec, tmp_path, embodiment, world=world) is None
        assert list(tmp_path.iterdir()) == []
        path = record_episode(spec, tmp_path, embodiment, world=world, keep_failed=True)
    assert EpisodeReader(path).info.success is False


def test_recording_resumes_where_it_stopped(tmp_path):
    options = RecordOptions(out=tmp_path, episodes=1, quiet=True, compression='zstd')
    first = record(options)
    assert (first.recorded, first.skipped, first.failed) == (1, 0, ())
    with pytest.raises(SimulationError, match='--resume'):
        record(options)
    (tmp_path / '.train_00000001.partial').mkdir()  # as a killed recording leaves it
    more = dataclasses.replace(options, episodes=2, resume=True)
    second = record(more)
    assert (second.recorded, second.skipped) == (1, 1)
    assert [p.name for p in find_episodes(tmp_path)] == ['train_00000000', 'train_00000001']
    assert 'frames/s' in str(second)


def test_two_processes_record_the_same_bytes_as_one(tmp_path):
    def recorded(workers: int) -> dict[str, list]:
        out = tmp_path / str(workers)
        record(RecordOptions(out=out, episodes=2, seed=10, workers=workers, quiet=True))
        return {p.name: list(EpisodeReader(p).messages()) for p in find_episodes(out)}

    assert recorded(1) == recorded(2)


def test_camera_info_matches_the_pictures(embodiment):
    with TabletopWorld() as world:
        world.reset(sample_episode(0, 'seen'))
        infos = camera_info_messages(world, embodiment)
        assert set(infos) == {'front/camera_info', 'wrist/camera_info'}
        (raw,) = instruction_message(world, embodiment).values()
        assert wire.decode_string(raw) == world.spec.instruction
