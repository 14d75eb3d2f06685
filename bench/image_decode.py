"""P2: a VGA rgb8 image from CDR bytes to a (480, 640, 3) array.

Either side keeps its newest image until the next one is there, as a node does. Let go at once in
a loop without anything else, a typed message costs fifteen times more: glibc then gives the heap
back every time. That is the loop's doing, not the decoder's, and would flatter the row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.results import BenchError, BenchSettings, Row
from bench.timing import seconds, take_turns
from vla_alignment_ros import wire


def run(settings: BenchSettings) -> Row:
    """The wire's view of the bytes against the message object that rclpy makes of them."""
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import Image

    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    raw = wire.encode_image(pixels, 1, 'camera')

    def ours() -> np.ndarray:
        return wire.decode_image(raw).image

    def typed() -> np.ndarray:
        message = deserialize_message(raw, Image)
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)

    if not (np.array_equal(ours(), pixels) and np.array_equal(typed(), pixels)):
        raise BenchError('the two decoders do not give the image that was encoded')
    repeats = settings.size(50, 5)
    samples = take_turns(
        {
            'ours': seconds(_kept(ours), repeats),
            'typed': seconds(_kept(typed), repeats),
        },
        rounds=settings.size(100, 5),
        warm_up=2,
    )
    ours_ms, typed_ms = (samples[name].p50 * 1e3 for name in ('ours', 'typed'))
    return Row(
        key='P2',
        title='VGA rgb8 image from the wire to an array',
        unit='ms',
        ours=ours_ms,
        baseline=typed_ms,
        goal=0.05,
        ours_is='`wire.decode_image` on the raw bytes, header included',
        baseline_is='rclpy `deserialize_message` to a typed Image, then a numpy view of its data',
        figures={
            'times cheaper': typed_ms / ours_ms,
            'ours p95, ms': samples['ours'].percentile(95) * 1e3,
            'baseline p95, ms': samples['typed'].percentile(95) * 1e3,
        },
    )


def _kept(decode: Callable[[], np.ndarray]) -> Callable[[], None]:
    """Decode and hold the result until the next one is there."""
    newest = [decode()]

    def run_once() -> None:
        newest[0] = decode()

    return run_once
