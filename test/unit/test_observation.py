from __future__ import annotations

import dataclasses

import cv2
from hypothesis import example, given
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.embodiment import Camera, Embodiment
from vla_alignment_ros.errors import WireError
from vla_alignment_ros.observation import (
    MAX_INSTRUCTION_CHARS,
    normalize_instruction,
    ObservationAssembler,
)

TS_NS = 7_300_000_000
RNG = np.random.default_rng(5)
ARM = np.array([0.1, -0.4, 0.2, -1.9, 0.3, 1.6, -0.5])


@pytest.fixture(scope='module')
def embodiment() -> Embodiment:
    return Embodiment.load('tabletop')


@pytest.fixture(scope='module')
def assembler(embodiment) -> ObservationAssembler:
    return ObservationAssembler(embodiment)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


def joints(names=None, position=None, ts_ns=TS_NS) -> bytes:
    names = names or (*(f'joint{i}' for i in range(1, 8)), 'finger_joint')
    return wire.encode_joint_state(ts_ns, names, [*ARM, 0.01] if position is None else position)


@pytest.fixture
def raw() -> dict[str, bytes]:
    return {
        'front/image_raw': wire.encode_image(picture(128, 128), TS_NS - 2, 'front'),
        'wrist/image_raw': wire.encode_image(picture(96, 96), TS_NS - 1, 'wrist'),
        'joint_states': joints(),
        'instruction': wire.encode_string('  Pick the RED cube. '),
    }


def test_an_observation_holds_every_source_with_its_stamp(assembler, raw):
    observation = assembler.assemble(TS_NS, raw)
    assert observation.ts_ns == TS_NS
    assert {name: image.shape for name, image in observation.images.items()} == {
        c.name: (c.height, c.width, 3) for c in assembler.embodiment.cameras
    }
    assert all(image.dtype == np.uint8 for image in observation.images.values())
    assert observation.stamps_ns == {
        'front': TS_NS - 2,
        'wrist': TS_NS - 1,
        'joint_states': TS_NS,
    }
    assert observation.instruction == 'pick the red cube'
    assert observation.state.dtype == np.float32
    assert observation.state.shape == (assembler.state_dim,) == (len(assembler.state_names),)


def test_an_image_of_the_right_size_is_neither_changed_nor_copied(assembler, raw):
    pixels = picture(128, 128)
    message = wire.encode_image(pixels, TS_NS, 'front')
    image, _ = assembler.image('front/image_raw', message)
    np.testing.assert_array_equal(image, pixels)
    assert np.shares_memory(image, np.frombuffer(message, np.uint8))


def test_a_larger_image_is_shrunk_to_the_size_of_the_embodiment(assembler, raw):
    pixels = picture(480, 640)
    raw['front/image_raw'] = wire.encode_image(pixels, TS_NS, 'front')
    image = assembler.assemble(TS_NS, raw).images['front']
    expected = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(image, expected)


def test_an_image_of_unequal_sides_keeps_rows_and_columns_apart(embodiment, raw):
    wide = dataclasses.replace(
        embodiment,
        cameras=(Camera('front', 'front/image_raw', width=40, height=24),),
        max_age_s={},
    )
    raw['front/image_raw'] = wire.encode_image(picture(48, 80), TS_NS, 'front')
    assert ObservationAssembler(wide).assemble(TS_NS, raw).images['front'].shape == (24, 40, 3)


def test_a_compressed_camera_is_decoded(embodiment, raw):
    squeezed = dataclasses.replace(
        embodiment,
        cameras=(Camera('front', 'front/image_raw', 128, 128, compressed=True),),
        max_age_s={},
    )
    pixels = picture(128, 128)
    ok, png = cv2.imencode('.png', pixels[:, :, ::-1])
    assert ok
    raw['front/image_raw'] = wire.encode(
        wire.make(
            'sensor_msgs/msg/CompressedImage',
            header=wire.header(TS_NS, 'front'),
            format='png',
            data=png.reshape(-1),
        )
    )
    image = ObservationAssembler(squeezed).assemble(TS_NS, raw).images['front']
    np.testing.assert_array_equal(image, pixels)


def test_joints_are_taken_by_name_whatever_their_order(assembler, raw):
    expected = assembler.assemble(TS_NS, raw).state
    names = (
        'other',
        'finger_joint_mimic',
        *(f'joint{i}' for i in range(7, 0, -1)),
        'finger_joint',
    )
    raw['joint_states'] = joints(names, [9.0, 0.01, *ARM[::-1], 0.01])
    np.testing.assert_array_equal(assembler.assemble(TS_NS, raw).state, expected)


def test_the_state_is_joints_then_gripper_opening_then_the_hand(assembler, raw):
    state = assembler.assemble(TS_NS, raw).state
    assert assembler.state_names[:8] == (*assembler.embodiment.joint_names, 'gripper_opening')
    assert assembler.state_names[8:11] == ('ee_x', 'ee_y', 'ee_z')
    np.testing.assert_allclose(state[:7], ARM, rtol=1e-6)
    assert state[7] == pytest.approx(0.25)  # 0.01 m of 0.04 m
    first, second = state[11:14], state[14:17]  # columns of a rotation
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    assert np.linalg.norm(second) == pytest.approx(1.0, abs=1e-5)
    assert first @ second == pytest.approx(0.0, abs=1e-5)
    assert assembler.state_names[11:14] == ('ee_r11', 'ee_r21', 'ee_r31')


def test_without_a_urdf_the_state_ends_with_the_gripper(embodiment, raw):
    plain = ObservationAssembler(dataclasses.replace(embodiment, urdf=None))
    assert plain.state_dim == 8
    assert plain.assemble(TS_NS, raw).state.shape == (8,)


def test_a_missing_joint_is_named_with_those_that_are_there(assembler, raw):
    names = tuple(
        n for n in (*(f'joint{i}' for i in range(1, 8)), 'finger_joint') if n != 'joint4'
    )
    raw['joint_states'] = joints(names, np.zeros(7))
    with pytest.raises(WireError, match=r'joint_states: .*lacks a position for joint4.*joint7'):
        assembler.assemble(TS_NS, raw)


def test_names_without_positions_are_refused(assembler, raw):
    raw['joint_states'] = joints(position=[])
    with pytest.raises(WireError, match='lacks a position for every joint'):
        assembler.assemble(TS_NS, raw)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('index', [0, 7])
def test_a_position_that_is_not_finite_is_refused(assembler, raw, bad, index):
    position = [*ARM, 0.01]
    position[index] = bad
    raw['joint_states'] = joints(position=position)
    with pytest.raises(WireError, match='not finite'):
        assembler.assemble(TS_NS, raw)


@pytest.mark.parametrize(
    'topic', ['front/image_raw', 'wrist/image_raw', 'joint_states', 'instruction']
)
def test_a_source_that_is_absent_is_named(assembler, raw, topic):
    del raw[topic]
    with pytest.raises(WireError, match=topic):
        assembler.assemble(TS_NS, raw)


@pytest.mark.parametrize(
    'topic', ['front/image_raw', 'wrist/image_raw', 'joint_states', 'instruction']
)
def test_broken_bytes_are_refused_with_their_topic(assembler, raw, topic):
    raw[topic] = raw[topic][:7]
    with pytest.raises(WireError, match=f'^{topic}: '):
        assembler.assemble(TS_NS, raw)


# -- instructions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'text',
    [
        'pick the red cube',
        'Pick the red cube.',
        '  pick   the\tred\ncube !!',
        'PICK the "red" cube?',
        'pick - the red cube -',
        "pick the 'red' cube…",
        'ｐick the red cube',
        'pick_the red, cube',
    ],
)
def test_writing_does_not_change_an_instruction(text):
    assert normalize_instruction(text) == 'pick the red cube'


def test_letters_digits_and_joined_words_survive():
    text = "Don't move the left-hand Würfel 2"
    assert normalize_instruction(text) == "don't move the left-hand würfel 2"


@given(st.text(max_size=80))
@example('İ')
@example('ﬁ´x')
@example("a ' b -- c")
def test_an_instruction_normalised_once_stays_as_it_is(text):
    once = normalize_instruction(text)
    assert normalize_instruction(once) == once
    assert '  ' not in once
    assert once == once.strip()


def test_an_endless_instruction_is_cut():
    assert len(normalize_instruction('a ' * 10_000)) <= MAX_INSTRUCTION_CHARS
