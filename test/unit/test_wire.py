"""Bytes in, exact numbers out, or a WireError: whatever the encoding, padding and byte order."""

from array import array
import tracemalloc

import cv2
from hypothesis import assume, given, HealthCheck, settings
from hypothesis import strategies as st
from image_messages import ENCODINGS, IMAGE, image_bytes, STORE, to_rgb
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.errors import WireError

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

stamps = st.integers(0, 2**31 * 10**9 - 1)
names = st.text(st.characters(codec='utf-8', exclude_characters='\x00'), max_size=12)
floats = st.floats(allow_nan=False)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


# -- images -------------------------------------------------------------------------------------


@QUICK
@pytest.mark.parametrize('encoding', ENCODINGS)
@given(
    height=sizes,
    width=sizes,
    padding=st.integers(0, 8),
    big_endian=st.booleans(),
    little_cdr=st.booleans(),
    seed=seeds,
)
def test_every_colour_encoding_is_exact_with_any_padding_and_byte_order(
    encoding, height, width, padding, big_endian, little_cdr, seed
):
    channels, dtype = ENCODINGS[encoding]
    padding *= np.dtype(dtype).itemsize  # a row holds whole numbers
    shape = (height, width, channels) if channels else (height, width)
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, True)
    frame = wire.decode_image(image_bytes(pixels, encoding, padding, big_endian, little_cdr))
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    assert (frame.image == to_rgb(pixels, encoding)).all()
    assert (frame.ts_ns, frame.frame_id) == (1_000_000_002, 'camera')


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
@pytest.mark.parametrize('padding', [0, 6])
def test_yuv_is_decoded_to_its_colours(encoding, padding):
    # Y 81, U 90, V 240 is pure red, and grey has U = V = 128
    y, u, v = 81, 90, 240
    pair = [u, y, v, y] if encoding in ('yuv422', 'uyvy') else [y, u, y, v]
    pixels = np.tile(np.array(pair, np.uint8).reshape(1, 2, 2), (4, 3, 1))  # (4, 6, 2)
    frame = wire.decode_image(image_bytes(pixels, encoding, padding))
    assert frame.image.shape == (4, 6, 3)
    assert np.abs(frame.image.astype(int) - [255, 0, 0]).max() < 16


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'bayer_bggr8', 'bayer_gbrg8', 'bayer_grbg8'])
def test_a_grey_bayer_image_is_grey(encoding):
    frame = wire.decode_image(image_bytes(np.full((8, 8), 77, np.uint8), encoding))
    assert (frame.image == 77).all()


def test_plain_images_are_views_of_the_bytes():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for encoding in ('rgb8', 'bgr8'):
        image = wire.decode_image(image_bytes(pixels, encoding, padding=5)).image
        assert not image.flags.owndata
        assert not image.flags.writeable


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1', '64FC1', 'made_up', '', 'rgb8 '])
def test_what_is_no_colour_image_is_refused_by_name(encoding):
    with pytest.raises(WireError, match='encoding'):
        wire.decode_image(image_bytes(np.zeros((4, 4, 8), np.uint8), encoding))


@pytest.mark.parametrize('encoding', [*ENCODINGS, 'yuv422', 'yuv422_yuy2', 'bayer_rggb8'])
@pytest.mark.parametrize(
    'lie',
    [
        {'height': 5},
        {'height': 3},
        {'height': 0},
        {'width': 0},
        {'width': 400},
        {'width': 2**32 - 1},
        {'height': 2**32 - 1},
        {'height': 2**31, 'step': 0},
        {'step': 1},
        {'step': 2**32 - 1},
        {'data': np.zeros(0, np.uint8)},
        {'height': 2**16, 'step': 2**16},
    ],
    ids=str,
)
def test_an_image_that_lies_about_its_size_is_refused(encoding, lie):
    channels, dtype = ENCODINGS.get(encoding, (2 if encoding.startswith('yuv') else 0, np.uint8))
    pixels = np.zeros((4, 4, channels) if channels else (4, 4), dtype)
    with pytest.raises(WireError):
        wire.decode_image(image_bytes(pixels, encoding, **lie))


@QUICK
@given(
    encoding=st.sampled_from([*ENCODINGS, 'yuv422', 'uyvy', 'yuv422_yuy2', 'bayer_rggb8', '8UC3']),
    height=st.integers(0, 40),
    width=st.integers(0, 40),
    step=st.integers(0, 200),
    big_endian=st.booleans(),
    extra=st.integers(-3, 3),
)
def test_no_claim_about_the_size_gets_past_the_end(
    encoding, height, width, step, big_endian, extra
):
    """Right or refused; never pixels from beyond the message."""
    data = np.full(max(0, height * step + extra), 7, np.uint8)
    message = wire.make(
        IMAGE,
        header=wire.header(0, ''),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=step,
        data=data,
    )
    try:
        frame = wire.decode_image(wire.encode(message))
    except WireError:
        return
    assert frame.image.shape == (height, width, 3)
    if encoding in ('rgb8', 'bgr8', 'mono8'):
        assert (frame.image == 7).all()


@QUICK
@given(height=sizes, width=sizes, ts_ns=stamps, frame_id=names, seed=seeds)
def test_an_encoded_image_comes_back(height, width, ts_ns, frame_id, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    raw = wire.encode_image(pixels[:, ::-1], ts_ns, frame_id)
    frame = wire.decode_image(raw)
    assert (frame.image == pixels[:, ::-1]).all()
    assert (frame.ts_ns, frame.frame_id) == (ts_ns, frame_id)
    assert wire.stamp_ns(raw, IMAGE) == ts_ns


@pytest.mark.parametrize(
    'pixels', [np.zeros(4, np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_what_is_neither_rgb_nor_one_channel_is_not_encoded(pixels):
    with pytest.raises(WireError):
        wire.encode_image(pixels, 0, '')


def test_one_channel_is_encoded_as_mono8():
    ids = np.arange(15, dtype=np.uint8).reshape(3, 5)
    raw = wire.encode_image(ids[:, ::-1], 7, 'front')
    assert wire.decode(raw, IMAGE).encoding == 'mono8'
    frame = wire.decode_image(raw)
    assert (frame.image == ids[:, ::-1, None]).all() and frame.ts_ns == 7


def compressed(kind, data):
    return wire.encode(
        wire.make(
            'sensor_msgs/msg/CompressedImage',
            header=wire.header(5, 'camera'),
            format=kind,
            data=np.frombuffer(data, np.uint8),
        )
    )


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_compressed_images_keep_their_colours(kind):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :12] = (250, 10, 20)
    pixels[:, 12:] = (10, 20, 250)
    data = cv2.imencode(f'.{kind}', pixels[..., ::-1])[1].tobytes()
    frame = wire.decode_compressed_image(compressed(kind, data))
    assert frame.image.shape == pixels.shape
    assert np.abs(frame.image.astype(int) - pixels)[:, [4, 20]].max() <= (
        0 if kind == 'png' else 12
    )
    assert (frame.ts_ns, frame.frame_id) == (5, 'camera')


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_a_truncated_compressed_image_is_refused(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = cv2.imencode(f'.{kind}', pixels)[1].tobytes()
    for length in range(0, len(data) - 20, 37):
        with pytest.raises(WireError):
            wire.decode_compressed_image(compressed(kind, data[:length]))
    for other in (b'', b'GIF89a' + bytes(50), bytes(100)):
        with pytest.raises(WireError, match='neither jpeg nor png'):
            wire.decode_compressed_image(compressed(kind, other))


# -- every other message ------------------------------------------------------------------------

JOINTS = wire.encode_joint_state(3, ('a', 'bc'), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
TRAJECTORY = wire.encode_joint_trajectory(
    3, 'base', ('a', 'b'), np.arange(6.0).reshape(3, 2), np.array([0.1, 0.2, 1.3])
)
JOY = wire.encode(
    wire.make(
        'sensor_msgs/msg/Joy',
        header=wire.header(3, 'pad'),
        axes=np.array([0.5, -1.0], np.float32),
        buttons=np.array([0, 1, 1], np.int32),
    )
)
SAMPLES = {
    wire.decode_image: wire.encode_image(np.zeros((3, 5, 3), np.uint8), 3, 'camera'),
    wire.decode_compressed_image: compressed(
        'png', cv2.imencode('.png', np.zeros((3, 5, 3), np.uint8))[1].tobytes()
    ),
    wire.decode_joint_state: JOINTS,
    wire.decode_string: wire.encode_string('pick up the red cube'),
    wire.decode_twist_stamped: wire.encode_twist_stamped(3, 'base', np.ones(3), np.ones(3)),
    wire.decode_float64: wire.encode_float64(0.25),
    wire.decode_float64_multi_array: wire.encode_float64_multi_array(np.ones(7), ('x', 'y')),
    wire.decode_joint_trajectory: TRAJECTORY,
    wire.decode_bool: wire.encode_bool(True),
    wire.decode_joy: JOY,
}
each_decoder = pytest.mark.parametrize('decode', SAMPLES, ids=lambda d: d.__name__)


@each_decoder
def test_every_truncation_is_a_wire_error(decode):
    raw = SAMPLES[decode]
    decode(raw)
    for length in range(len(raw)):
        with pytest.raises(WireError):
            decode(raw[:length])


@each_decoder
def test_spare_bytes_behind_a_message_are_ignored(decode):
    """`rclpy.serialization.serialize_message` leaves some."""
    plain, spare = decode(SAMPLES[decode]), decode(SAMPLES[decode] + b'\xff' * 13)
    assert repr(plain) == repr(spare)


@QUICK
@each_decoder
@given(data=st.data())
def test_damaged_bytes_are_decoded_or_refused_but_never_crash(decode, data):
    raw = bytearray(SAMPLES[decode])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(raw))
    except WireError:
        pass


@QUICK
@each_decoder
@given(raw=st.binary(max_size=200))
def test_noise_is_decoded_or_refused_but_never_crashes(decode, raw):
    for prefix in (b'', b'\x00\x01\x00\x00', b'\x00\x00\x00\x00'):
        try:
            decode(prefix + raw)
        except WireError:
            pass


@each_decoder
def test_lengths_that_claim_gigabytes_are_refused_at_once(decode):
    raw = SAMPLES[decode]
    tracemalloc.start()
    try:
        for place in range(4, len(raw) - 3, 4):
            lie = raw[:place] + b'\xff\xff\xff\xff' + raw[place + 4 :]
            try:
                decode(lie)
            except WireError:
                pass
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_png_that_lies_about_a_chunk_or_its_size_does_not_reach_the_decoder(monkeypatch):
    def too_late(*_):
        raise AssertionError('the decoder would allocate what the file claims')

    monkeypatch.setattr(cv2, 'imdecode', too_late)
    png = bytearray(cv2.imencode('.png', np.zeros((3, 5, 3), np.uint8))[1].tobytes())
    # length of IHDR, width, height, length of the next chunk, length of IEND
    places = [8, 16, 20, 33, len(png) - 12]
    for place in places:
        lie = bytes(png[:place]) + b'\x7f\xff\xff\xf0' + bytes(png[place + 4 :])
        with pytest.raises(WireError, match='truncated|impossibly large'):
            wire.decode_compressed_image(compressed('png', lie))


def test_a_jpeg_that_claims_gigapixels_does_not_reach_the_decoder(monkeypatch):
    jpeg = cv2.imencode('.jpg', np.zeros((16, 24, 3), np.uint8))[1].tobytes()
    size = (16).to_bytes(2, 'big') + (24).to_bytes(2, 'big')
    assert jpeg.count(size) == 1
    monkeypatch.setattr(cv2, 'imdecode', None)
    for lie in (b'\xff\xff\xff\xff', b'\x3f\xff\x3f\xff', b'\x00\x00\x00\x18'):
        with pytest.raises(WireError, match='impossibly large'):
            wire.decode_compressed_image(compressed('jpeg', jpeg.replace(size, lie)))


@QUICK
@given(
    ts_ns=stamps,
    joints=st.lists(st.tuples(names, floats, floats), max_size=9),
    with_velocity=st.booleans(),
)
def test_joint_states_come_back(ts_ns, joints, with_velocity):
    position = np.array([p for _, p, _ in joints])
    velocity = np.array([v for _, _, v in joints]) if with_velocity else None
    sample = wire.decode_joint_state(
        wire.encode_joint_state(ts_ns, tuple(n for n, _, _ in joints), position, velocity)
    )
    assert sample.ts_ns == ts_ns
    assert sample.names == tuple(n for n, _, _ in joints)
    assert (sample.position == position).all()
    assert len(sample.velocity) == (len(joints) if with_velocity else 0)
    assert len(sample.effort) == 0


@pytest.mark.parametrize('field', ['position', 'velocity', 'effort'])
def test_a_joint_state_with_values_for_other_joints_is_refused(field):
    values = {'position': np.empty(0), 'velocity': np.empty(0), 'effort': np.empty(0)}
    message = wire.make(
        'sensor_msgs/msg/JointState',
        header=wire.header(0, ''),
        name=['a', 'b'],
        **{**values, field: np.ones(3)},
    )
    with pytest.raises(WireError, match=f'2 joints but has 3 {field}'):
        wire.decode_joint_state(wire.encode(message))


def test_a_pad_is_read_with_its_stamp():
    sample = wire.decode_joy(JOY)
    assert sample.ts_ns == 3
    assert sample.axes.tolist() == [0.5, -1.0] and sample.buttons.tolist() == [0, 1, 1]


@QUICK
@given(text=names, number=floats, flag=st.booleans())
def test_plain_values_come_back(text, number, flag):
    assert wire.decode_string(wire.encode_string(text)) == text
    assert wire.decode_float64(wire.encode_float64(number)) == number
    assert wire.decode_bool(wire.encode_bool(flag)) is flag


@QUICK
@given(ts_ns=stamps, frame_id=names, values=st.lists(floats, min_size=6, max_size=6))
def test_twists_come_back(ts_ns, frame_id, values):
    raw = wire.encode_twist_stamped(ts_ns, frame_id, values[:3], values[3:])
    sample = wire.decode_twist_stamped(raw)
    assert (sample.ts_ns, sample.frame_id) == (ts_ns, frame_id)
    assert [*sample.linear, *sample.angular] == values
    assert wire.stamp_ns(raw, 'geometry_msgs/msg/TwistStamped') == ts_ns


@QUICK
@given(values=st.lists(floats, max_size=12), labels=st.lists(names, max_size=4))
def test_multi_arrays_come_back(values, labels):
    raw = wire.encode_float64_multi_array(np.array(values), tuple(labels))
    assert wire.decode_float64_multi_array(raw).tolist() == values


@QUICK
@given(
    ts_ns=stamps,
    joints=st.lists(names, max_size=4),
    times_ns=st.lists(st.integers(0, 10**12), max_size=5),
    seed=seeds,
)
def test_trajectories_come_back(ts_ns, joints, times_ns, seed):
    positions = np.random.default_rng(seed).normal(size=(len(times_ns), len(joints)))
    times_s = np.array(times_ns) * 1e-9
    raw = wire.encode_joint_trajectory(ts_ns, 'base', tuple(joints), positions, times_s)
    sample = wire.decode_joint_trajectory(raw)
    assert (sample.ts_ns, sample.frame_id, sample.names) == (ts_ns, 'base', tuple(joints))
    assert (sample.positions == positions).all()
    np.testing.assert_allclose(sample.time_from_start_s, times_s, atol=1e-9)


def test_only_stamped_types_have_a_stamp():
    assert wire.stamp_ns(SAMPLES[wire.decode_string], 'std_msgs/msg/String') is None
    assert wire.stamp_ns(JOINTS, 'sensor_msgs/msg/JointState') == 3
    with pytest.raises(WireError):
        wire.stamp_ns(JOINTS[:11], 'sensor_msgs/msg/JointState')


@pytest.mark.parametrize('little', [True, False])
def test_the_byte_order_of_the_message_is_honoured(little):
    message = wire.decode(TRAJECTORY, 'trajectory_msgs/msg/JointTrajectory')
    raw = bytes(STORE.serialize_cdr(message, message.__msgtype__, little_endian=little))
    sample = wire.decode_joint_trajectory(raw)
    assert sample.names == ('a', 'b')
    assert sample.positions.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert wire.stamp_ns(raw, 'trajectory_msgs/msg/JointTrajectory') == 3


def test_an_unknown_type_is_a_wire_error():
    with pytest.raises(WireError, match='not known'):
        wire.decode(bytes(8), 'made_up/msg/Thing')


# -- the same bytes as ROS ----------------------------------------------------------------------


def ros_header(ts_ns, frame_id):
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    return Header(stamp=Time(sec=ts_ns // 10**9, nanosec=ts_ns % 10**9), frame_id=frame_id)


def ros_image(pixels, ts_ns, frame_id):
    from sensor_msgs.msg import Image

    message = Image(header=ros_header(ts_ns, frame_id), encoding='rgb8')
    message.height, message.width = pixels.shape[:2]
    message.step = 3 * message.width
    message.data = array('B', pixels.tobytes())
    return message


def ros_twist(ts_ns, frame_id, linear, angular):
    from geometry_msgs.msg import Twist, TwistStamped, Vector3

    keys = ('x', 'y', 'z')
    twist = Twist(
        linear=Vector3(**dict(zip(keys, linear))), angular=Vector3(**dict(zip(keys, angular)))
    )
    return TwistStamped(header=ros_header(ts_ns, frame_id), twist=twist)


def ros_trajectory(ts_ns, frame_id, joints, positions, times_ns):
    from builtin_interfaces.msg import Duration
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    points = [
        JointTrajectoryPoint(
            positions=row.tolist(),
            time_from_start=Duration(sec=ns // 10**9, nanosec=ns % 10**9),
        )
        for row, ns in zip(positions, times_ns)
    ]
    return JointTrajectory(
        header=ros_header(ts_ns, frame_id), joint_names=list(joints), points=points
    )


@pytest.fixture(scope='module')
def serialize():
    return pytest.importorskip('rclpy.serialization').serialize_message


def assert_same_bytes(ours, theirs, msgtype):
    """Equal but for what means nothing: padding and the spare bytes behind, unset by ROS."""
    assert len(ours) <= len(theirs), msgtype
    assert ours == wire.encode(wire.decode(theirs, msgtype)), msgtype


@QUICK
@given(height=sizes, width=sizes, ts_ns=stamps, frame_id=names, seed=seeds)
def test_images_are_the_bytes_that_ros_writes(serialize, height, width, ts_ns, frame_id, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    theirs = serialize(ros_image(pixels, ts_ns, frame_id))
    assert_same_bytes(wire.encode_image(pixels, ts_ns, frame_id), theirs, IMAGE)
    frame = wire.decode_image(theirs)
    assert (frame.image == pixels).all()
    assert (frame.ts_ns, frame.frame_id) == (ts_ns, frame_id)


@QUICK
@given(
    ts_ns=stamps,
    joints=st.lists(names, max_size=5),
    frame_id=names,
    text=names,
    seed=seeds,
    times_ns=st.lists(st.integers(0, 10**12), max_size=3),
)
def test_messages_are_the_bytes_that_ros_writes(
    serialize, ts_ns, joints, frame_id, text, seed, times_ns
):
    from rclpy.serialization import deserialize_message
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Bool, Float64, Float64MultiArray, String

    rng = np.random.default_rng(seed)
    position, velocity = rng.normal(size=(2, len(joints)))
    twist = rng.normal(size=6).tolist()
    positions = rng.normal(size=(len(times_ns), len(joints)))
    pairs = [
        (
            wire.encode_joint_state(ts_ns, tuple(joints), position, velocity, frame_id),
            JointState(
                header=ros_header(ts_ns, frame_id),
                name=joints,
                position=position.tolist(),
                velocity=velocity.tolist(),
            ),
        ),
        (wire.encode_string(text), String(data=text)),
        (wire.encode_bool(True), Bool(data=True)),
        (wire.encode_float64(twist[0]), Float64(data=twist[0])),
        (
            wire.encode_float64_multi_array(np.array(twist)),
            Float64MultiArray(data=array('d', twist)),
        ),
        (
            wire.encode_twist_stamped(ts_ns, frame_id, twist[:3], twist[3:]),
            ros_twist(ts_ns, frame_id, twist[:3], twist[3:]),
        ),
        (wire.encode_clock(ts_ns), Clock(clock=ros_header(ts_ns, '').stamp)),
        (
            wire.encode_joint_trajectory(
                ts_ns, frame_id, tuple(joints), positions, np.array(times_ns) * 1e-9
            ),
            ros_trajectory(ts_ns, frame_id, joints, positions, times_ns),
        ),
    ]
    for ours, message in pairs:
        package = type(message).__module__.split('.')[0]
        msgtype = f'{package}/msg/{type(message).__name__}'
        assert_same_bytes(ours, serialize(message), msgtype)
        assert deserialize_message(ours, type(message)) == message


def test_ros_reads_what_we_write(serialize):
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CameraInfo, Image

    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    message = deserialize_message(wire.encode_image(pixels, 7, 'camera'), Image)
    assert bytes(message.data) == pixels.tobytes()
    assert (message.header.frame_id, message.header.stamp.nanosec) == ('camera', 7)
    info = deserialize_message(wire.encode_camera_info(7, 'camera', 4, 2, 3.0, 3.5), CameraInfo)
    assert (info.width, info.height, info.k[0], info.k[4]) == (4, 2, 3.0, 3.5)


@QUICK
@given(text=st.text(st.characters(codec='utf-8'), max_size=10))
def test_text_with_any_character_survives_or_is_refused(text):
    assume('\x00' not in text)
    assert wire.decode_string(wire.encode_string(text)) == text
