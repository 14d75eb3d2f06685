"""The one wire path: CDR bytes ↔ numpy for every message type this package touches.

What arrives on a raw subscription, what lies in a bag, and what is published are the same bytes,
and these are the only functions that read or write them. So a policy cannot see an image
differently live than it did in training. Plain 8-bit images become views of the bytes, without
a copy; `pixels` turns every other encoding into RGB.

Every decoder raises `WireError` for bytes that are truncated or that lie about their size; none
reads past the end. Images leave here as (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import get_typestore, Stores

from vla_alignment_ros.errors import WireError
from vla_alignment_ros.pixels import decompress_rgb, MAX_IMAGE_SIDE, to_rgb, unpadded_rgb8
from vla_alignment_ros.samples import (
    ImageFrame,
    JointSample,
    JoySample,
    TrajectorySample,
    TwistSample,
)

_STORE = get_typestore(Stores.ROS2_JAZZY)
_TYPES = _STORE.types
_HEADER = _TYPES['std_msgs/msg/Header']
_STAMPS = struct.Struct('>iI'), struct.Struct('<iI')  # s and ns, by byte order
_TIME = _TYPES['builtin_interfaces/msg/Time']
_DURATION = _TYPES['builtin_interfaces/msg/Duration']

# message types whose first field is a std_msgs/Header
STAMPED = frozenset(
    name
    for name, kind in _TYPES.items()
    if next(iter(getattr(kind, '__dataclass_fields__', {})), None) == 'header'
)


# -- decoding -----------------------------------------------------------------------------------


def decode(raw: bytes, msgtype: str) -> Any:
    """Any message as the typestore's dataclass; arrays are views of `raw`.

    Bytes after the end of the message are ignored: `rclpy.serialization.serialize_message`
    returns a buffer of the estimated size, and bags written with it carry that rubbish.

    Raises:
        WireError: the type is unknown or the bytes are not a whole message of it.
    """
    if len(raw) < 4 or raw[0] != 0 or raw[1] > 1:
        raise WireError(f'broken {msgtype} of {len(raw)} bytes: not plain CDR')
    try:
        definition = _STORE.get_msgdef(msgtype)
        read = definition.deserialize_cdr_le if raw[1] else definition.deserialize_cdr_be
        message, _ = read(memoryview(raw)[4:], 0, definition.cls, _STORE)
    except (SerdeError, struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise WireError(f'broken {msgtype} of {len(raw)} bytes: {error}') from error
    except KeyError as error:
        raise WireError(f'message type {msgtype!r} is not known here') from error
    return message


def stamp_ns(raw: bytes, msgtype: str) -> int | None:
    """The header stamp in nanoseconds, read from the first bytes; None without a header."""
    if msgtype not in STAMPED:
        return None
    if len(raw) < 12:
        raise WireError(f'broken {msgtype} of {len(raw)} bytes: no room for a header')
    sec, nanosec = _STAMPS[raw[1] & 1].unpack_from(raw, 4)
    return sec * 1_000_000_000 + nanosec


def body(raw: bytes, msgtype: str) -> memoryview:
    """The bytes after the stamp: equal for messages that say the same at different times."""
    return memoryview(raw)[12 if msgtype in STAMPED else 4 :]


def _stamp(header: Any) -> int:
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def decode_image(raw: bytes) -> ImageFrame:
    """`sensor_msgs/Image` as RGB. Row padding (step) and big-endian 16-bit data are honoured.

    rgb8 is a zero-copy read-only view; bgr8 and mono8 are views too (reversed, broadcast). Depth
    (16UC1, 32FC1) is refused, because a depth image has no colour.
    """
    if (found := unpadded_rgb8(raw)) is not None:
        return ImageFrame(*found)
    msg = decode(raw, 'sensor_msgs/msg/Image')
    height, width, step = msg.height, msg.width, msg.step
    if not (0 < height <= MAX_IMAGE_SIDE and 0 < width <= MAX_IMAGE_SIDE):
        raise WireError(f'image of {width}x{height} pixels is empty or impossibly large')
    if height * step != len(msg.data):
        raise WireError(
            f'image claims {height} rows of {step} bytes but carries {len(msg.data)} bytes'
        )
    data = np.asarray(msg.data)
    image = to_rgb(data, height, width, step, msg.encoding, bool(msg.is_bigendian))
    return ImageFrame(_stamp(msg.header), msg.header.frame_id, image)


def decode_compressed_image(raw: bytes) -> ImageFrame:
    """`sensor_msgs/CompressedImage` (jpeg or png) as RGB."""
    msg = decode(raw, 'sensor_msgs/msg/CompressedImage')
    image = decompress_rgb(np.asarray(msg.data))
    return ImageFrame(_stamp(msg.header), msg.header.frame_id, image)


IMAGE_DECODERS = {
    'sensor_msgs/msg/Image': decode_image,
    'sensor_msgs/msg/CompressedImage': decode_compressed_image,
}


def decode_joint_state(raw: bytes) -> JointSample:
    """`sensor_msgs/JointState`; arrays that are neither empty nor one per name are refused."""
    msg = decode(raw, 'sensor_msgs/msg/JointState')
    names = tuple(msg.name)
    for field in ('position', 'velocity', 'effort'):
        length = len(getattr(msg, field))
        if length not in (0, len(names)):
            raise WireError(f'joint state names {len(names)} joints but has {length} {field}')
    return JointSample(_stamp(msg.header), names, msg.position, msg.velocity, msg.effort)


def decode_joy(raw: bytes) -> JoySample:
    """`sensor_msgs/Joy`."""
    msg = decode(raw, 'sensor_msgs/msg/Joy')
    return JoySample(_stamp(msg.header), np.asarray(msg.axes), np.asarray(msg.buttons))


def decode_string(raw: bytes) -> str:
    """`std_msgs/String`."""
    return decode(raw, 'std_msgs/msg/String').data


def decode_bool(raw: bytes) -> bool:
    """`std_msgs/Bool`."""
    return bool(decode(raw, 'std_msgs/msg/Bool').data)


def decode_twist_stamped(raw: bytes) -> TwistSample:
    """`geometry_msgs/TwistStamped`."""
    msg = decode(raw, 'geometry_msgs/msg/TwistStamped')
    linear, angular = msg.twist.linear, msg.twist.angular
    return TwistSample(
        _stamp(msg.header),
        msg.header.frame_id,
        np.array([linear.x, linear.y, linear.z]),
        np.array([angular.x, angular.y, angular.z]),
    )


def decode_float64(raw: bytes) -> float:
    """`std_msgs/Float64`."""
    return float(decode(raw, 'std_msgs/msg/Float64').data)


def decode_float64_multi_array(raw: bytes) -> np.ndarray:
    """`std_msgs/Float64MultiArray`: the flat data, (N,) float64."""
    return np.asarray(decode(raw, 'std_msgs/msg/Float64MultiArray').data)


def decode_joint_trajectory(raw: bytes) -> TrajectorySample:
    """`trajectory_msgs/JointTrajectory` whose points all give one position per joint."""
    msg = decode(raw, 'trajectory_msgs/msg/JointTrajectory')
    names = tuple(msg.joint_names)
    for point in msg.points:
        if len(point.positions) != len(names):
            raise WireError(
                f'trajectory names {len(names)} joints but a point has {len(point.positions)}'
            )
    positions = np.array([p.positions for p in msg.points], dtype=np.float64)
    times = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in msg.points]
    return TrajectorySample(
        _stamp(msg.header),
        msg.header.frame_id,
        names,
        positions.reshape(len(msg.points), len(names)),
        np.array(times, dtype=np.float64),
    )


# -- encoding -----------------------------------------------------------------------------------


def encode(message: Any) -> bytes:
    """A typestore message as CDR bytes (little-endian), fit for `publisher.publish`."""
    return bytes(_STORE.serialize_cdr(message, message.__msgtype__))


def make(msgtype: str, **fields: Any) -> Any:
    """A message of the typestore by its type name."""
    return _TYPES[msgtype](**fields)


def time(ts_ns: int) -> Any:
    """`builtin_interfaces/Time`."""
    return _TIME(sec=ts_ns // 1_000_000_000, nanosec=ts_ns % 1_000_000_000)


def header(ts_ns: int, frame_id: str) -> Any:
    """`std_msgs/Header`."""
    return _HEADER(stamp=time(ts_ns), frame_id=frame_id)


def encode_image(image: np.ndarray, ts_ns: int, frame_id: str) -> bytes:
    """uint8 (H, W, 3) RGB as an rgb8, (H, W) as a mono8 `sensor_msgs/Image`."""
    channels = {2: 1, 3: 3}.get(image.ndim)
    if image.dtype != np.uint8 or channels is None or image.shape[2:] not in ((), (3,)):
        raise WireError(f'need uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}')
    height, width = image.shape[:2]
    return encode(
        make(
            'sensor_msgs/msg/Image',
            header=header(ts_ns, frame_id),
            height=height,
            width=width,
            encoding='rgb8' if channels == 3 else 'mono8',
            is_bigendian=0,
            step=channels * width,
            data=np.ascontiguousarray(image).reshape(-1),
        )
    )


def encode_joint_state(
    ts_ns: int,
    names: tuple[str, ...],
    position: np.ndarray,
    velocity: np.ndarray | None = None,
    frame_id: str = '',
) -> bytes:
    """`sensor_msgs/JointState` with positions and, where given, velocities."""
    empty = np.empty(0)
    return encode(
        make(
            'sensor_msgs/msg/JointState',
            header=header(ts_ns, frame_id),
            name=list(names),
            position=np.asarray(position, dtype=np.float64),
            velocity=empty if velocity is None else np.asarray(velocity, dtype=np.float64),
            effort=empty,
        )
    )


def encode_string(text: str) -> bytes:
    """`std_msgs/String`."""
    return encode(make('std_msgs/msg/String', data=text))


def encode_bool(value: bool) -> bytes:
    """`std_msgs/Bool`."""
    return encode(make('std_msgs/msg/Bool', data=bool(value)))


def encode_clock(ts_ns: int) -> bytes:
    """`rosgraph_msgs/Clock`."""
    return encode(make('rosgraph_msgs/msg/Clock', clock=time(ts_ns)))


def encode_twist_stamped(
    ts_ns: int, frame_id: str, linear: np.ndarray, angular: np.ndarray
) -> bytes:
    """`geometry_msgs/TwistStamped`: (3,) m/s and (3,) rad/s in `frame_id`."""
    vector = _TYPES['geometry_msgs/msg/Vector3']
    twist = make(
        'geometry_msgs/msg/Twist',
        linear=vector(*(float(v) for v in linear)),
        angular=vector(*(float(v) for v in angular)),
    )
    return encode(
        make('geometry_msgs/msg/TwistStamped', header=header(ts_ns, frame_id), twist=twist)
    )


def encode_float64(value: float) -> bytes:
    """`std_msgs/Float64`."""
    return encode(make('std_msgs/msg/Float64', data=float(value)))


def encode_float64_multi_array(values: np.ndarray, labels: tuple[str, ...] = ()) -> bytes:
    """`std_msgs/Float64MultiArray`; `labels` name the values, one dimension each of size 1."""
    kind = _TYPES['std_msgs/msg/MultiArrayDimension']
    layout = make(
        'std_msgs/msg/MultiArrayLayout',
        dim=[kind(label=label, size=1, stride=1) for label in labels],
        data_offset=0,
    )
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    return encode(make('std_msgs/msg/Float64MultiArray', layout=layout, data=data))


def encode_joint_trajectory(
    ts_ns: int,
    frame_id: str,
    names: tuple[str, ...],
    positions: np.ndarray,
    time_from_start_s: np.ndarray,
) -> bytes:
    """`trajectory_msgs/JointTrajectory` of P points with (P, J) positions."""
    empty = np.empty(0)
    kind = _TYPES['trajectory_msgs/msg/JointTrajectoryPoint']
    points = []
    for row, seconds in zip(np.asarray(positions, dtype=np.float64), time_from_start_s):
        ns = round(float(seconds) * 1e9)
        points.append(
            kind(
                positions=row,
                velocities=empty,
                accelerations=empty,
                effort=empty,
                time_from_start=_DURATION(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000),
            )
        )
    return encode(
        make(
            'trajectory_msgs/msg/JointTrajectory',
            header=header(ts_ns, frame_id),
            joint_names=list(names),
            points=points,
        )
    )


def encode_camera_info(
    ts_ns: int, frame_id: str, width: int, height: int, fx: float, fy: float
) -> bytes:
    """`sensor_msgs/CameraInfo` of an ideal pinhole camera with a centred principal point."""
    cx, cy = width / 2, height / 2
    roi = _TYPES['sensor_msgs/msg/RegionOfInterest']
    return encode(
        make(
            'sensor_msgs/msg/CameraInfo',
            header=header(ts_ns, frame_id),
            height=height,
            width=width,
            distortion_model='plumb_bob',
            d=np.zeros(5),
            k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], dtype=np.float64),
            r=np.eye(3).reshape(-1),
            p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], dtype=np.float64),
            binning_x=0,
            binning_y=0,
            roi=roi(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )
    )
