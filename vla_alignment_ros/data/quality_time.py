"""When messages came: rates, gaps, and stamps against the time of arrival. Plain arrays only.

Shapes: N messages of one topic, in order of arrival; T control ticks.
"""

from __future__ import annotations

import numpy as np

from vla_alignment_ros.data import align
from vla_alignment_ros.data.quality import Finding, Limits, Severity

FEWEST = 10  # intervals from which evenness can be told
SHARE = 0.01  # of messages that may be out of line before it is said
FEW_REPEATS = 2  # a simulator that waits for the next command, or the end of a recording
NEAR = 1e-6  # relative: room for stamps that are whole nanoseconds


def rate_findings(
    topic: str,
    stamps_ns: np.ndarray,
    start_ns: int,
    rate_hz: float,
    max_age_s: float | None,
    limits: Limits,
) -> list[Finding]:
    """Gaps, uneven intervals and a rate below the control rate.

    Args:
        topic: what to call it.
        stamps_ns: (N,).
        start_ns: of the episode, to say when.
        rate_hz: control rate.
        max_age_s: a longer gap than this loses samples.
        limits: what is still fine.
    """
    ordered_ns = np.unique(stamps_ns)
    if len(ordered_ns) < 3:
        return []
    intervals = np.diff(ordered_ns) * 1e-9  # (N − 1,) s
    median = float(np.median(intervals))
    found = []
    gaps = np.flatnonzero(intervals > limits.gap_periods * median * (1 + NEAR))
    if len(gaps):
        longest = int(intervals.argmax())
        lossy = max_age_s is not None and intervals[longest] > max_age_s
        where = f'at {(ordered_ns[longest] - start_ns) * 1e-9:.1f} s'
        more = f'{len(gaps)} gaps, the longest' if len(gaps) > 1 else 'a gap'
        found.append(Finding(
            'rate',
            Severity.ERROR if lossy else Severity.WARNING,
            f'{topic}: {more} of {intervals[longest]:.2f} s {where} '
            f'(usual {median:.3f} s{f", limit {max_age_s:g} s" if lossy else ""})',
            float((ordered_ns[longest] - start_ns) * 1e-9),
        ))  # fmt: skip
    if median * rate_hz > (1 + limits.rate_share) * (1 + NEAR):
        found.append(Finding(
            'rate', Severity.WARNING,
            f'{topic} comes at {1 / median:.1f} Hz, the control rate is {rate_hz:g} Hz: '
            f'samples repeat it',
        ))  # fmt: skip
    others = np.delete(intervals, gaps)
    if len(others) >= FEWEST:
        uneven = float(np.quantile(np.abs(others / median - 1), 0.95))
        if uneven > limits.jitter_share * (1 + NEAR):
            found.append(Finding(
                'rate', Severity.WARNING,
                f'{topic} is uneven: one interval in 20 differs by {100 * uneven:.0f} % or more '
                f'from the usual {median:.3f} s',
            ))  # fmt: skip
    return found


def edge_findings(
    topic: str, stamps_ns: np.ndarray, start_ns: int, stop_ns: int, limits: Limits
) -> list[Finding]:
    """A sensor (its stamps (N,)) that begins late or falls silent before the episode's end."""
    ordered_ns = np.unique(stamps_ns)
    if len(ordered_ns) < 3:
        return []
    longest_ns = limits.gap_periods * (1 + NEAR) * float(np.median(np.diff(ordered_ns)))
    late_s, lost_s = (ordered_ns[0] - start_ns) * 1e-9, (stop_ns - ordered_ns[-1]) * 1e-9
    found = []
    if late_s * 1e9 > longest_ns:
        text = f'{topic} comes only from {late_s:.2f} s on'
        found.append(Finding('rate', Severity.WARNING, text, 0.0))
    if lost_s * 1e9 > longest_ns:
        text = f'{topic} is silent for the last {lost_s:.2f} s'
        at_s = float((ordered_ns[-1] - start_ns) * 1e-9)
        found.append(Finding('rate', Severity.ERROR, text, at_s))
    return found


def stamp_findings(
    topic: str, stamps_ns: np.ndarray, logs_ns: np.ndarray, limits: Limits
) -> list[Finding]:
    """Header stamps (N,) against log times (N,): repeated, going back, ahead, late.

    Where the two are of different clocks (simulated and wall time) their difference means nothing
    and is not judged.
    """
    count = len(stamps_ns)
    if not count:
        return []
    found = []
    steps = np.diff(stamps_ns)
    back, same = int((steps < 0).sum()), int((steps == 0).sum())
    if back:
        found.append(Finding(
            'stamp', Severity.WARNING, f'{topic}: the stamp goes back {back} times'
        ))  # fmt: skip
    if same > max(FEW_REPEATS, SHARE * count):
        found.append(Finding(
            'stamp', Severity.WARNING,
            f'{topic}: {same} of {count} messages have the stamp of the one before',
        ))  # fmt: skip
    delay = (logs_ns - stamps_ns) * 1e-9  # (N,) s
    usual = float(np.median(delay))
    if abs(usual) * 1e9 >= align.CLOCKS_AGREE_NS:
        return found
    ahead = delay < -limits.ahead_s
    if ahead.mean() > SHARE:
        found.append(Finding(
            'stamp', Severity.WARNING,
            f'{topic}: {int(ahead.sum())} of {count} stamps lie after the arrival, by up to '
            f'{-delay.min():.2f} s',
        ))  # fmt: skip
    if usual > limits.late_s:
        found.append(Finding(
            'stamp', Severity.WARNING, f'{topic} arrives {usual:.2f} s after its stamp'
        ))  # fmt: skip
    if count < 4 * FEWEST:
        return found
    late = float(np.quantile(delay, 0.99)) - usual
    if late > limits.late_s:
        found.append(Finding(
            'stamp', Severity.WARNING,
            f'{topic}: one message in 100 arrives {late:.2f} s later than usual',
        ))  # fmt: skip
    quarter = count // 4
    drift = float(np.median(delay[-quarter:]) - np.median(delay[:quarter]))
    if abs(drift) > limits.late_s / 2:
        found.append(Finding(
            'stamp', Severity.WARNING,
            f'{topic}: its clock drifts, {drift:+.2f} s from the first to the last quarter',
        ))  # fmt: skip
    return found


def age_findings(
    source: str, ticks_ns: np.ndarray, stamps_ns: np.ndarray, rate_hz: float, limits: Limits
) -> list[Finding]:
    """How old a source (its stamps (N,)) is at the ticks (T,), where the action is decided."""
    pick = align.as_of(stamps_ns, ticks_ns)
    if not (pick >= 0).any():
        return []
    age = float(np.median((ticks_ns - stamps_ns[pick])[pick >= 0])) * 1e-9
    if age * rate_hz <= limits.age_periods:
        return []
    return [Finding(
        'stamp', Severity.WARNING,
        f'{source} is {age:.2f} s old at a typical command ({age * rate_hz:.1f} control periods): '
        f'actions are learned with pictures of before',
    )]  # fmt: skip
