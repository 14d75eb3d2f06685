"""What was commanded: jumps, limits, idle parts. Plain arrays only.

Shapes: A actions of seven numbers, one per control tick.
"""

from __future__ import annotations

import numpy as np

from vla_alignment_ros.control.codecs import gripper_index
from vla_alignment_ros.data import align
from vla_alignment_ros.data.activity import Activity
from vla_alignment_ros.data.quality import Finding, Limits, Severity
from vla_alignment_ros.embodiment import ACTION_DIM, Embodiment

TOUCH = 0.002  # share of the range: as near to a limit counts as at it
ROOM = 1e-4  # share of the range: as far beyond a limit is rounding


def action_findings(
    ticks_ns: np.ndarray,
    actions: np.ndarray,
    embodiment: Embodiment,
    start_ns: int,
    limits: Limits,
) -> list[Finding]:
    """Jumps from one tick to the next, commands beyond the limits, and those that stay at one.

    The gripper is left out: it is meant to be at its ends, and to change at once.

    Args:
        ticks_ns: (A,).
        actions: (A, 7).
        embodiment: whose limits count.
        start_ns: of the episode.
        limits: what is still fine.
    """
    spec = embodiment.action
    dims = [d for d in range(ACTION_DIM) if d != gripper_index(embodiment)]
    names = [spec.names[d] for d in dims]
    values = actions[:, dims].astype(np.float64)
    low, high = (np.asarray(bound, np.float64)[dims] for bound in (spec.low, spec.high))
    span = np.where(np.isfinite(high - low), high - low, np.inf)
    found = _jumps(ticks_ns, values, _largest_step(embodiment, dims, span, limits), names,
                   embodiment, start_ns)  # fmt: skip
    beyond = np.maximum(low - values, values - high)  # (A, D)
    rows, columns = np.nonzero(beyond > ROOM * span)
    if len(rows):
        worst = int(beyond[rows, columns].argmax())
        name, unit = names[columns[worst]], spec.units[dims[columns[worst]]]
        at_s = (ticks_ns[rows[0]] - start_ns) * 1e-9
        found.append(Finding(
            'action', Severity.WARNING,
            f'{len(np.unique(rows))} of {len(values)} commands leave the limits; {name} by '
            f'{beyond[rows, columns].max():.3g} {unit} (first at {at_s:.1f} s)',
            float(at_s),
        ))  # fmt: skip
    touch = (values <= low + TOUCH * span) | (values >= high - TOUCH * span)
    share = touch.mean(axis=0) if len(values) else np.zeros(len(dims))
    if share.max(initial=0.0) > limits.clip_share:
        which = int(share.argmax())
        found.append(Finding(
            'clipping', Severity.WARNING,
            f'{names[which]} is at its limit in {100 * share[which]:.0f} % of the commands',
        ))  # fmt: skip
    return found


def _largest_step(
    embodiment: Embodiment, dims: list[int], span: np.ndarray, limits: Limits
) -> np.ndarray:
    """(D,) how much a command may change in one step."""
    spec = embodiment.action
    if spec.space == 'joint_position' and spec.max_velocity is not None:
        return np.asarray(spec.max_velocity, np.float64)[dims] / embodiment.rate_hz * (1 + ROOM)
    return limits.jump_share * span


def _jumps(ticks_ns, values, largest, names, embodiment, start_ns) -> list[Finding]:
    if len(values) < 2:
        return []
    near = np.diff(ticks_ns) <= align.GAP_PERIODS * 1e9 / embodiment.rate_hz
    change = np.abs(np.diff(values, axis=0)) * near[:, None]  # (A − 1, D)
    relative = change / largest
    rows = np.flatnonzero((relative > 1).any(axis=1))
    if not len(rows):
        return []
    row, column = np.unravel_index(int(relative.argmax()), relative.shape)
    at_s = (ticks_ns[row + 1] - start_ns) * 1e-9
    return [Finding(
        'action', Severity.WARNING,
        f'{len(rows)} jumps in the commands; the largest, {names[column]} by '
        f'{change[row, column]:.3g} in one step, at {at_s:.1f} s',
        float(at_s),
    )]  # fmt: skip


def idle_findings(found: Activity, limits: Limits) -> list[Finding]:
    """Time without motion and without commands: at the start, at the end, in between."""
    whole_s = (found.stop_ns - found.start_ns) * 1e-9
    if found.first_ns is None or found.last_ns is None:
        return [Finding('idle', Severity.ERROR, f'nothing ever moves in {whole_s:.1f} s')]
    parts = []
    before_s = (found.first_ns - found.start_ns) * 1e-9
    after_s = (found.stop_ns - found.last_ns) * 1e-9
    if before_s > limits.idle_s:
        text = f'idle for the first {before_s:.1f} s'
        parts.append(Finding('idle', Severity.WARNING, text, 0.0))
    if after_s > limits.idle_s:
        at_s = whole_s - after_s
        text = f'idle for the last {after_s:.1f} s'
        parts.append(Finding('idle', Severity.WARNING, text, at_s))
    begin_s, pause_s = found.longest_pause()
    if pause_s > limits.pause_s:
        text = f'a pause of {pause_s:.1f} s at {begin_s:.1f} s'
        parts.append(Finding('idle', Severity.WARNING, text, begin_s))
    return parts
