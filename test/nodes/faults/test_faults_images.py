"""Images of every kind on the camera topic of a live node: exact, or a hold that says why."""

from __future__ import annotations

from itertools import product

from decision_bench import OPEN_GATE, SightedPolicy
from image_messages import ENCODINGS, image_bytes, to_rgb
import numpy as np
import pytest
from tabletop_robot import moves, start, STEP, T0

from vla_alignment_ros import wire
from vla_alignment_ros.nodes.diagnostics import DIAGNOSTICS_TOPIC

CAMERA, SIZE = 'front/image_raw', (128, 128)
# encoding, padding in numbers, big endian, little endian CDR
HONEST = list(product(ENCODINGS, (0, 6), (False, True), (True, False)))
SAMPLE = HONEST[::5]
# what is claimed -> what is said of it
LIES = [
    ({'encoding': '16UC1'}, '16UC1 is depth'),
    ({'encoding': 'made_up'}, "'made_up'"),
    ({'height': 5}, 'bytes'),
    ({'height': 0}, '128x0'),
    ({'width': 400}, 'shorter than 400 rgb8 pixels'),
    ({'width': 2**32 - 1}, '4294967295'),
    ({'height': 2**16, 'step': 2**16}, '65536'),
    ({'step': 1}, 'rows of 1 bytes'),
    ({'data': np.zeros(0, np.uint8)}, 'bytes'),
]
CUTS = (28, 40, 61, 1000, 3 * 128 * 128, -1)  # bytes of an image that are left
SHORT_CUTS = (1, 3, 4, 8, 11)  # not even a stamp


class Stage:
    """A live node in lock-step, shown one image after the other."""

    def __init__(self, ros, checkpoint) -> None:
        self.robot, self.node = start(
            ros, checkpoint, act_on_arrival=True, status_period_s=0.1
        )
        self.policy = SightedPolicy()
        self.node._loop.pipeline.exchange(self.policy, OPEN_GATE)
        self.diagnostics = ros.listen(
            DIAGNOSTICS_TOPIC, 'diagnostic_msgs/msg/DiagnosticArray', raw=False
        )
        self.ts_ns, self.refused = T0, 0
        self.robot.say()

    def image(self, pixels: np.ndarray, encoding: str, *args, **lies) -> bytes:
        header = wire.header(self.ts_ns + STEP, 'front')
        return image_bytes(pixels, encoding, *args, **{'header': header, **lies})

    def show(self, raw: bytes) -> wire.TwistSample:
        """The answer to this image and what belongs to it."""
        self.ts_ns += STEP
        self.robot.outputs[CAMERA].publish(raw)
        self.robot.show(self.ts_ns, but=('front',))
        return self.robot.twist(self.ts_ns)

    def refuses(self, raw: bytes, said: str) -> None:
        decided = len(self.policy.seen)
        assert not moves(self.show(raw)), said
        self.refused += 1
        reason = self.node._loop.last.reason
        assert reason.startswith(f'{CAMERA}: ') and said in reason, reason
        assert len(self.policy.seen) == decided

    def goes_on(self) -> None:
        """Nothing of all that keeps the next good image from being acted on."""
        sample = self.show(self.image(np.full((*SIZE, 3), 255, np.uint8), 'rgb8'))
        assert sample.linear[0] == pytest.approx(0.2)

    def counted(self) -> dict[str, str]:
        """The figures of /diagnostics, once they count all refusals."""

        def find(arrays):
            values = [{v.key: v.value for v in a.status[0].values} for a in arrays[-1:]]
            return [v for v in values if v.get('held: WireError', '0') == str(self.refused)]

        return self.diagnostics.wait_for(find)[0]


@pytest.fixture
def stage(ros, checkpoint) -> Stage:
    return Stage(ros, checkpoint)


@pytest.mark.parametrize('kinds', [SAMPLE, pytest.param(HONEST, marks=pytest.mark.long)],
                         ids=['sampled', 'all'])  # fmt: skip
def test_a_live_node_sees_every_encoding_exactly(stage, kinds):
    assert {kind[0] for kind in kinds} == set(ENCODINGS)
    rng = np.random.default_rng(3)
    for encoding, padding, big_endian, little_cdr in kinds:
        channels, dtype = ENCODINGS[encoding]
        shape = (*SIZE, channels) if channels else SIZE
        pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype, True)
        padding *= np.dtype(dtype).itemsize
        stage.show(stage.image(pixels, encoding, padding, big_endian, little_cdr))
        seen = stage.policy.newest
        assert seen.ts_ns == stage.ts_ns, (encoding, stage.node._loop.last.reason)
        np.testing.assert_array_equal(seen.images['front'], to_rgb(pixels, encoding))
    assert stage.node._loop.causes.snapshot() == {}


def test_an_image_that_lies_is_a_hold_with_its_cause_counted_in_the_diagnostics(stage):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    for lie, said in LIES:
        stage.refuses(stage.image(pixels, lie.get('encoding', 'rgb8'), **{
            key: value for key, value in lie.items() if key != 'encoding'
        }), said)  # fmt: skip
    odd = np.zeros((4, 5, 2), np.uint8)
    stage.refuses(stage.image(odd, 'yuv422'), 'even width')
    stage.goes_on()
    values = stage.counted()
    assert values['held: WireError'] == str(len(LIES) + 1)


def test_a_truncated_image_is_a_hold_or_counted_as_broken(stage):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    for encoding, cut in product(('rgb8', 'bgr8'), CUTS):
        stage.refuses(stage.image(pixels, encoding)[:cut], '')
    stage.goes_on()
    for number, cut in enumerate(SHORT_CUTS, start=1):
        stage.robot.outputs[CAMERA].publish(stage.image(pixels, 'rgb8')[:cut])
        stage.robot.ros.until(
            lambda n=number: stage.node._loop.buffer.broken['front'] == n, f'{cut} bytes'
        )
    stage.goes_on()
    stage.refused += 1  # so that only newer figures count …
    stage.refuses(stage.image(pixels, 'rgb8')[:-1], '')
    stage.refused -= 1
    values = stage.counted()
    assert values['broken: front'] == str(len(SHORT_CUTS))
