"""Camera images as mp4 files that hold many episodes, written and read frame by frame.

Frames are RGB, 8 bits. `h264` keeps the colour of every pixel (yuv444p), at high quality; `av1` is
what LeRobot records with by itself: smaller, one colour for four pixels (yuv420p), which small
images feel. Either way every second frame is a key frame, and so is the first of each episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
import os
from pathlib import Path
from typing import Any

import av
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
import numpy as np

from vla_alignment_ros.data.lerobot.layout import FILES_PER_CHUNK, VIDEO
from vla_alignment_ros.errors import ConfigError, DatasetError
from vla_alignment_ros.pixels import MAX_IMAGE_SIDE

KEY_FRAME_EVERY = 2
TOLERANCE_PERIODS = 0.25  # a frame this far from where it should be is another one
_REASON = 'the file is truncated or damaged, or the times of the episode are wrong'


@dataclass(frozen=True)
class Codec:
    """How frames are encoded: FFmpeg's encoder, its pixel format and its own options."""

    encoder: str
    pixels: str
    crf: int  # quality: lower is better and larger
    options: dict[str, str]
    min_side: int = 1  # pixels


CODECS = {
    'h264': Codec('libx264', 'yuv444p', 10, {'forced-idr': '1'}),
    'av1': Codec('libsvtav1', 'yuv420p', 30, {'preset': '12'}, 64),  # older SVT-AV1 crashes below
}
CRF = (0, 63)


class VideoFiles:
    """The videos of one camera; a new file is begun where the next episode would be too much.

    Args:
        root: folder of the dataset.
        feature: name of the camera's feature.
        size: height and width, pixels.
        fps: frames per second.
        codec: name in `CODECS`.
        crf: quality, or None for the codec's own.
        max_bytes: size of a file at which the next one is begun.

    Raises:
        ConfigError: a codec or a quality that does not exist, or images too small for it.
    """

    def __init__(
        self,
        root: Path,
        feature: str,
        size: tuple[int, int],
        fps: int,
        codec: str = 'h264',
        crf: int | None = None,
        max_bytes: int = 1 << 62,
    ) -> None:
        if codec not in CODECS:
            raise ConfigError(f'codec {codec!r} is unknown; allowed: {", ".join(CODECS)}')
        if crf is not None and not CRF[0] <= crf <= CRF[1]:
            raise ConfigError(f'crf must be {CRF[0]} (best) to {CRF[1]} (smallest), got {crf}')
        if min(size) < CODECS[codec].min_side:
            raise ConfigError(
                f'{feature} has {size[1]}x{size[0]} pixels, codec {codec} needs at least '
                f'{CODECS[codec].min_side} a side: use h264'
            )
        self._root, self._feature, self._size = root, feature, size
        self._fps, self._codec, self._max_bytes = fps, CODECS[codec], max_bytes
        self._crf = self._codec.crf if crf is None else crf
        self._container: Any = None
        self._number = -1  # of the file
        self._frames = self._bytes = 0  # in this file
        self._begun = (0, 0)  # frames and bytes before this episode
        self._episode_bytes = 0  # of the one before
        os.environ.setdefault('SVT_LOG', '1')  # or it explains itself on stderr, 20 lines a file

    def description(self) -> dict[str, Any]:
        """What `info.json` says about the feature."""
        height, width = self._size
        return {
            'video.height': height,
            'video.width': width,
            'video.codec': av.Codec(self._codec.encoder, 'w').canonical_name,
            'video.pix_fmt': self._codec.pixels,
            'video.fps': self._fps,
            'video.channels': 3,
            'video.g': KEY_FRAME_EVERY,
            'video.crf': self._crf,
            'video.video_backend': 'pyav',
            'is_depth_map': False,
            'has_audio': False,
        }

    def begin(self) -> None:
        """The frames that follow are of another episode."""
        if self._container is None or self._bytes + self._episode_bytes >= self._max_bytes:
            self.close()
            self._open()
        self._begun = (self._frames, self._bytes)

    def add(self, image: np.ndarray) -> None:
        """Append one frame, (height, width, 3) uint8."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
        frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
        if self._frames == self._begun[0]:
            frame.pict_type = PictureType.I
        self._encode(frame)
        self._frames += 1

    def end(self) -> dict[str, Any]:
        """Where the episode lies, as the table of episodes says it."""
        self._episode_bytes = self._bytes - self._begun[1]
        chunk, file = divmod(self._number, FILES_PER_CHUNK)
        prefix = f'videos/{self._feature}'
        return {
            f'{prefix}/chunk_index': chunk,
            f'{prefix}/file_index': file,
            f'{prefix}/from_timestamp': self._begun[0] / self._fps,
            f'{prefix}/to_timestamp': self._frames / self._fps,
        }

    def close(self) -> None:
        """Finish the file that is open."""
        if self._container is None:
            return
        try:
            self._encode(None)
            self._container.close()
        except av.FFmpegError as error:
            raise DatasetError(f'cannot write {self._path}: {error}') from error
        finally:
            self._container = None

    def abort(self) -> None:
        """Let go of the file that is open; it is not whole."""
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()
            except av.FFmpegError:
                pass  # whatever it is, the folder is thrown away

    @property
    def _path(self) -> Path:
        chunk, file = divmod(self._number, FILES_PER_CHUNK)
        return self._root / VIDEO.format(
            video_key=self._feature, chunk_index=chunk, file_index=file
        )

    def _open(self) -> None:
        self._number += 1
        self._frames = self._bytes = 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        options = {'g': str(KEY_FRAME_EVERY), 'crf': str(self._crf), **self._codec.options}
        try:
            # the index in front: what is read first
            self._container = av.open(str(self._path), 'w', options={'movflags': 'faststart'})
            stream = self._container.add_stream(self._codec.encoder, self._fps, options=options)
            stream.pix_fmt = self._codec.pixels
            stream.height, stream.width = self._size
            self._stream = stream
        except (av.FFmpegError, OSError) as error:
            raise DatasetError(f'cannot write {self._path}: {error}') from error

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._bytes += packet.size
                self._container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            raise DatasetError(f'cannot write {self._path}: {error}') from error


def read_frames(
    path: Path, times_s: np.ndarray, period_s: float, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Decode the frames (height, width, 3) uint8 RGB that are shown at the given times.

    Args:
        times_s: (T,) ascending, in the time of the file.
        period_s: time between frames.
        size: height and width that the frames have to have, pixels.

    Raises:
        DatasetError: missing or damaged, another size, or no frame where one should be.
    """
    if not path.is_file():
        raise DatasetError(f'{path} is missing: the folder is not whole')
    found = 0
    colours = VideoReformatter()  # one for all: a frame alone would start threads for itself
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path, size)
            offset = int(float(times_s[0]) / stream.time_base) - 1
            container.seek(max(0, offset), stream=stream, backward=True)
            frames = container.decode(stream)
            tolerance_s = TOLERANCE_PERIODS * period_s
            for time_s in times_s:
                for frame in frames:
                    at_s = None if frame.pts is None else float(frame.pts * frame.time_base)
                    if at_s is not None and at_s >= time_s - tolerance_s:
                        break
                else:
                    raise DatasetError(
                        f'{path} ends after {found} of {len(times_s)} frames of the episode: '
                        f'{_REASON}'
                    )
                if at_s > time_s + tolerance_s or (frame.height, frame.width) != size:
                    raise DatasetError(f'{path} has no frame at {time_s:.4f} s: {_REASON}')
                found += 1
                yield colours.reformat(frame, format='rgb24').to_ndarray()
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise DatasetError(
            f'{path} cannot be read, it is truncated or damaged: {error}'
        ) from error


def _video_stream(container: Any, path: Path, size: tuple[int, int]) -> Any:
    if not container.streams.video:
        raise DatasetError(f'{path} holds no video')
    stream = container.streams.video[0]
    found = (stream.height, stream.width)
    if found != size or max(found) > MAX_IMAGE_SIDE:
        raise DatasetError(
            f'{path} has frames of {found[1]}x{found[0]} pixels, info.json says '
            f'{size[1]}x{size[0]} (and at most {MAX_IMAGE_SIDE} a side are read)'
        )
    return stream
