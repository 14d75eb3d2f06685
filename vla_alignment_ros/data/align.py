"""Which messages belong to which control tick: as-of alignment, on time stamps alone.

Nothing here looks into the future: a tick sees the newest message whose stamp is at or before it,
exactly like a policy that acts at that instant. All stamps are int64 nanoseconds.

Notation: T ticks, N messages of one topic in order of arrival.
"""

from __future__ import annotations

import numpy as np

RATE_TOLERANCE = 0.25  # commands this near the control rate are one command per tick
GAP_PERIODS = 1.5  # consecutive ticks further apart than this do not form one action chunk
CLOCKS_AGREE_NS = 1_000_000_000  # log time and header stamps this close are one clock


def as_of(stamps_ns: np.ndarray, ticks_ns: np.ndarray) -> np.ndarray:
    """For every tick the index of the newest message stamped at or before it, -1 without one.

    Args:
        stamps_ns: (N,), in order of arrival; of equal stamps the later arrival is newer.
        ticks_ns: (T,).

    Returns:
        (T,) int64 indices into `stamps_ns`.
    """
    if len(stamps_ns) == 0:
        return np.full(len(ticks_ns), -1, dtype=np.int64)
    order = np.argsort(stamps_ns, kind='stable')  # (N,)
    place = np.searchsorted(stamps_ns[order], ticks_ns, side='right') - 1  # (T,)
    return np.where(place >= 0, order[np.maximum(place, 0)], -1).astype(np.int64)


def header_or_log(header_ns: np.ndarray, log_ns: np.ndarray) -> np.ndarray:
    """(N,) header stamps, or log times where the publisher never set its stamps."""
    return log_ns if len(header_ns) > 1 and not header_ns.any() else header_ns


def headerless(
    log_ns: np.ndarray, reference_log_ns: np.ndarray, reference_ns: np.ndarray
) -> np.ndarray:
    """Stamps (N,) of messages without a header, in the clock of those that have one.

    Log time is the stamp where both clocks agree. Where they do not (header stamps in simulated
    time, log in wall time), a message gets the stamp of the newest stamped message that was
    logged at or before it, or of the first one.

    Args:
        log_ns: (N,) log times of the messages without a header.
        reference_log_ns: (R,) log times of stamped messages, ascending.
        reference_ns: (R,) their header stamps.
    """
    if len(reference_ns) == 0:
        return log_ns
    if np.median(np.abs(reference_log_ns - reference_ns)) < CLOCKS_AGREE_NS:
        return log_ns
    newest = np.searchsorted(reference_log_ns, log_ns, side='right') - 1
    return reference_ns[np.maximum(newest, 0)]


def published_together(a_log_ns: np.ndarray, b_log_ns: np.ndarray) -> bool:
    """Whether two topics were published once each per tick, so that the i-th belong together.

    True when both have equally many messages and every pair was logged before the next pair.
    """
    if len(a_log_ns) != len(b_log_ns) or len(a_log_ns) == 0:
        return False
    last = np.maximum(a_log_ns, b_log_ns)
    first = np.minimum(a_log_ns, b_log_ns)
    return bool((last[:-1] <= first[1:]).all())


def control_ticks(command_ns: np.ndarray, rate_hz: float) -> np.ndarray:
    """The ticks (T,) at which an episode is sampled, ascending and distinct.

    The stamps of the commands themselves when they come at about the control rate (a command
    carries the stamp of the observation it answers); otherwise a regular grid at the control rate
    from the first command to the last.
    """
    stamps = np.unique(command_ns)
    if len(stamps) < 2:
        return stamps
    period_ns = 1e9 / rate_hz
    interval_ns = float(np.median(np.diff(stamps)))
    if abs(interval_ns / period_ns - 1) <= RATE_TOLERANCE:
        return stamps
    steps = int((stamps[-1] - stamps[0]) / period_ns) + 1
    # from the start for every tick: no drift where the period is not a whole nanosecond
    return stamps[0] + np.round(np.arange(steps) * period_ns).astype(np.int64)


def segment_stops(ticks_ns: np.ndarray, rate_hz: float) -> np.ndarray:
    """(T,) for every tick the index just after the last tick that follows it without a gap."""
    count = len(ticks_ns)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    breaks = np.flatnonzero(np.diff(ticks_ns) > GAP_PERIODS * 1e9 / rate_hz) + 1
    stops = np.append(breaks, count)
    return stops[np.searchsorted(stops, np.arange(count), side='right')].astype(np.int64)


def next_change(gripper: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """(T,) for every tick the index of the next change of the gripper command, at or after it.

    A change is a tick whose command lies on the other side of `threshold` than the one before.
    Where no change follows it is the last tick.

    Args:
        gripper: (T,) commanded opening, 0..1.
    """
    count = len(gripper)
    is_open = np.asarray(gripper) >= threshold
    changes = np.append(np.flatnonzero(is_open[1:] != is_open[:-1]) + 1, count - 1)
    return changes[np.searchsorted(changes, np.arange(count), side='left')].astype(np.int64)
