"""One episode on one sheet: what the cameras saw, what was said, and how the robot moved.

The time axis below the pictures is laid out under them: what is below a picture happened then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.data.activity import activity, command_shares, joint_positions, Stillness
from vla_alignment_ros.data.bag_format import EpisodeInfo
from vla_alignment_ros.data.episode import commands, index_episode, observations, scan_episode
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.evaluation.films import thumbnail
from vla_alignment_ros.evaluation.plots import (
    BAD,
    GOOD,
    HELD,
    INK,
    LINE,
    MARK,
    png,
    SOFT,
    STYLE,
    wrap,
)  # fmt: skip
from vla_alignment_ros.observation import ObservationAssembler

MOMENTS = 8
FRAME_PIXELS = 320  # width of a picture that is kept, at most
SPEED_S = 0.2  # joint speeds are means over this time
# inches
PICTURE, GAP, SIDE, TOP, CURVES, BETWEEN, BOTTOM = 1.55, 0.06, 0.95, 0.95, 0.85, 0.28, 0.36
LINE_HEIGHT, LETTERS = 0.34, 78  # of the instruction


@dataclass(frozen=True)
class Play:
    """An episode as it is drawn; times in s from its start.

    R moments, N joint states, A commands.
    """

    info: EpisodeInfo
    embodiment: Embodiment
    texts: tuple[str, ...]  # what was to be done, each once, in order
    times_s: np.ndarray  # (R,)
    frames: dict[str, list[np.ndarray]]  # camera -> R pictures (h, w, 3)
    duration_s: float
    joint_s: np.ndarray  # (N,)
    opening: np.ndarray  # (N,) of the gripper, 0…1
    speed: np.ndarray  # (N,) of the fastest joint, rad/s or m/s
    command_s: np.ndarray  # (A,)
    command: np.ndarray  # (A,) largest part, as a share of what the embodiment allows
    command_opening: np.ndarray | None  # (A,)
    changes_s: tuple[tuple[float, bool], ...]  # when the gripper is told to open (True) or close
    idle_s: tuple[tuple[float, float], ...]  # begin, end
    person_s: tuple[tuple[float, float], ...]  # a person had taken over


def read_play(
    path: Path, moments: int = MOMENTS, embodiment: Embodiment | None = None
) -> Play:
    """Read what is drawn of an episode; one picture is in memory beside those that are kept.

    Args:
        path: the episode.
        moments: how many pictures of each camera.
        embodiment: instead of the one that it names.

    Raises:
        DatasetError: no sample can be made of it.
    """
    index = index_episode(path, embodiment)
    robot = index.embodiment
    assembler = ObservationAssembler(robot)
    rows = np.unique(np.linspace(0, len(index) - 1, min(moments, len(index))).round().astype(int))
    frames: dict[str, list] = {c.name: [None] * len(rows) for c in robot.cameras}
    for row, seen in observations(index.rows(rows), assembler):
        for name, image in seen.images.items():
            frames[name][row] = thumbnail(image, FRAME_PIXELS)
    scan = scan_episode(index.episode, robot)
    ticks, actions, _ = commands(scan, robot)
    moved = activity(scan, robot, ticks, actions, Stillness())
    joint_ns, positions = joint_positions(scan, robot)

    def seconds(stamps_ns: np.ndarray) -> np.ndarray:
        return (stamps_ns - moved.start_ns) * 1e-9

    gripper = gripper_index(robot)
    told = None if gripper is None else actions[:, gripper]
    turned = np.zeros(0, int) if told is None else np.flatnonzero(np.diff(told >= 0.5)) + 1
    motion = actions.copy()
    if gripper is not None:
        motion[:, gripper] = 0.0  # it has a curve of its own
    spoken = (index.instructions[i] for i in index.picks[robot.instruction_topic])
    period_s = moved.period_ns * 1e-9
    helped = seconds(index.ticks_ns[index.correction])
    return Play(
        info=index.info,
        embodiment=robot,
        texts=tuple(dict.fromkeys(assembler.instruction(raw) for raw in dict.fromkeys(spoken))),
        times_s=seconds(index.ticks_ns[rows]),
        frames=frames,
        duration_s=float(seconds(np.int64(moved.stop_ns))),
        joint_s=seconds(joint_ns),
        opening=positions[:, -1],
        speed=_speed(seconds(joint_ns), positions[:, :-1]),
        command_s=seconds(ticks),
        command=command_shares(motion, robot),
        command_opening=told,
        changes_s=tuple((float(seconds(ticks[i])), bool(told[i] >= 0.5)) for i in turned),
        idle_s=_joined(period_s * np.flatnonzero(~moved.active), period_s),
        person_s=_joined(helped, period_s),
    )


def _speed(times_s: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(N,) mean speed of the fastest joint over the time before, positions (N, J)."""
    if not len(times_s):
        return np.zeros(0)
    before = np.maximum(np.searchsorted(times_s, times_s - SPEED_S, side='right') - 1, 0)
    spent = np.maximum(times_s - times_s[before], SPEED_S)
    return (np.abs(positions - positions[before]) / spent[:, None]).max(axis=1)


def _joined(begins_s: np.ndarray, length_s: float) -> tuple[tuple[float, float], ...]:
    """Pieces of time of one length as few (begin, end) as they make."""
    spans: list[tuple[float, float]] = []
    for begin in begins_s.tolist():
        if spans and begin - spans[-1][1] < 0.5 * length_s:
            spans[-1] = (spans[-1][0], begin + length_s)
        else:
            spans.append((begin, begin + length_s))
    return tuple(spans)


# -- drawing ------------------------------------------------------------------------------------


def draw_play(play: Play, remarks: tuple[str, ...] = ()) -> bytes:
    """The sheet as PNG. remarks: lines that are said in red below the instruction."""
    columns = len(play.times_s)
    heights = {
        name: PICTURE * max(f.shape[0] / f.shape[1] for f in frames)
        for name, frames in play.frames.items()
    }
    said = wrap(' → '.join(f'“{text}”' for text in play.texts), LETTERS).split('\n')
    lines = [wrap(remark, 2 * LETTERS) for remark in remarks]
    top = TOP + LINE_HEIGHT * (len(said) - 1) + 0.22 * sum(1 + line.count('\n') for line in lines)
    width = SIDE + max(columns, 5) * (PICTURE + GAP) + 0.25
    height = top + sum(h + GAP for h in heights.values()) + 2 * (CURVES + BETWEEN) + BOTTOM
    with rc_context({**STYLE, 'figure.constrained_layout.use': False}):
        figure = Figure(figsize=(width, height))

        def place(left: float, up: float, wide: float, high: float) -> Axes:
            """Axes by inches from the left and from the top."""
            return figure.add_axes(
                (left / width, 1 - (up + high) / height, wide / width, high / height)
            )

        _head(figure, play, said, lines, width, height)
        up = top
        for name, frames in play.frames.items():
            for column, frame in enumerate(frames):
                axes = place(SIDE + column * (PICTURE + GAP), up, PICTURE, heights[name])
                axes.imshow(frame, interpolation='nearest', aspect='auto')
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if column == 0:
                    axes.set_ylabel(name, rotation=0, ha='right', va='center', labelpad=10)
            up += heights[name] + GAP
        reach = columns * (PICTURE + GAP) - GAP
        step = float(np.diff(play.times_s).mean()) if columns > 1 else max(play.duration_s, 0.1)
        edge = 0.5 * step * PICTURE / (PICTURE + GAP)
        limits = (play.times_s[0] - edge, play.times_s[-1] + edge)
        for draw in (_gripper, _motion):
            up += BETWEEN
            axes = place(SIDE, up, reach, CURVES)
            draw(axes, play)
            _time(axes, play, limits, last=draw is _motion)
            up += CURVES
        return png(figure)


def _head(
    figure: Figure, play: Play, said: list[str], remarks: list[str], width: float, height: float
) -> None:
    """Instruction, verdict and numbers."""
    verdict, color = {
        True: ('succeeded', GOOD), False: ('failed', BAD), None: ('not judged', SOFT),
    }[play.info.success]  # fmt: skip
    left = 0.2 / width
    up = 0.16
    text = '\n'.join(said) if play.texts and play.texts[0] else 'no instruction'
    figure.text(left, 1 - up / height, text, fontsize=17, fontweight='bold', va='top')
    up += LINE_HEIGHT * len(said) + 0.06
    facts = (
        f'{play.duration_s:.1f} s  ·  {play.info.name}  ·  {play.embodiment.name}, '
        f'{play.embodiment.rate_hz:g} Hz'
    )
    facts += '  ·  relabelled' if play.info.relabelled else ''
    figure.text(left, 1 - up / height, '●', fontsize=12, color=color, va='top')
    figure.text((0.2 + 0.2) / width, 1 - up / height, verdict, color=color, va='top',
                fontweight='bold')  # fmt: skip
    figure.text((0.2 + 1.25) / width, 1 - up / height, facts, color=SOFT, va='top')
    up += 0.26
    for remark in remarks:
        figure.text(left, 1 - up / height, remark, color=BAD, va='top', fontsize=10.5)
        up += 0.22 * (1 + remark.count('\n'))


def _gripper(axes: Axes, play: Play) -> None:
    axes.fill_between(play.joint_s, play.opening, color=MARK, alpha=0.18, linewidth=0)
    axes.plot(play.joint_s, play.opening, color=MARK, linewidth=1.6, label='measured')
    if play.command_opening is not None:
        axes.step(play.command_s, play.command_opening, where='post', color=INK, linewidth=1.1,
                  linestyle='--', label='commanded')  # fmt: skip
    axes.set(ylim=(-0.08, 1.12), yticks=[0, 1], yticklabels=['closed', 'open'])
    axes.set_title('gripper', fontsize=11, color=SOFT)


def _motion(axes: Axes, play: Play) -> None:
    fastest = float(play.speed.max(initial=0.0))
    axes.plot(play.joint_s, play.speed / (fastest or 1.0), color=MARK, linewidth=1.6,
              label=f'fastest joint (1 is {fastest:.2g} rad/s)')  # fmt: skip
    axes.step(play.command_s, play.command, where='post', color=INK, linewidth=1.1,
              linestyle='--', label='command (1 is the limit)')  # fmt: skip
    axes.set(ylim=(-0.08, 1.15), yticks=[0, 1])
    axes.set_title('motion', fontsize=11, color=SOFT)


def _time(axes: Axes, play: Play, limits: tuple[float, float], last: bool) -> None:
    """What all curves share: idle time, who drove, when the gripper changed, the time itself."""
    for spans, color, name in ((play.idle_s, SOFT, 'idle'), (play.person_s, HELD, 'a person')):
        for number, (begin, end) in enumerate(spans):
            axes.axvspan(begin, min(end, play.duration_s), color=color, alpha=0.16, linewidth=0,
                         label=None if number else name)  # fmt: skip
    for time, opens in play.changes_s:
        axes.axvline(time, color=BAD, linewidth=1)
        if not last:
            axes.annotate(' opens' if opens else ' closes', (time, 0.15), color=BAD, fontsize=9.5)
    axes.set_xlim(*limits)
    axes.set_xticks(play.times_s, [f'{time:.1f} s' for time in play.times_s] if last else [])
    axes.grid(axis='x', color=LINE, linewidth=0.6)
    axes.legend(loc='lower right', bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=9,
                borderaxespad=0.1, handlelength=1.6)  # fmt: skip
