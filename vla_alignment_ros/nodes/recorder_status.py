"""How a recorder fares, as a diagnostic message.

No ROS in here but the message and its levels.

==========  ====================================================================
OK          nothing is wrong
WARN        messages were dropped, an instruction is broken, a publisher is not heard, a topic is
            missing from the episode, a recording was cut off
ERROR       an episode is not whole, or the disk is full
==========  ====================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.nodes.diagnostics import ERROR, OK, status_message, WARN


def recorder_status(
    name: str, recorder: EpisodeRecorder | None, misfits: Sequence[str], last_error: str
) -> DiagnosticStatus:
    """The status of a recorder; None: it is not configured, perhaps because of `last_error`."""
    if recorder is None:
        return status_message(name, OK, last_error or 'not configured', {})
    counts = recorder.counts().values()
    dropped, broken = sum(c.dropped for c in counts), sum(c.broken for c in counts)
    missing = recorder.missing() if recorder.recording else []
    needed = [topic for topic in missing if topic in recorder.embodiment.topics()]
    cut_off = len(recorder.disk.unfinished)
    flaws = [f'{dropped} messages dropped'] if dropped else []
    flaws += [f'{broken} broken instructions ignored'] if broken else []
    flaws += [f'nothing from {", ".join(needed)}'] if needed else []
    flaws += [f'not heard: {"; ".join(misfits)}'] if misfits else []
    flaws += [f'{cut_off} recordings were cut off: `vla_bag recover`'] if cut_off else []
    level = ERROR if recorder.error else WARN if flaws else OK
    text = recorder.error or ', '.join(flaws) or 'ok'
    values = recorder.key_values() | {'incompatible': '; '.join(misfits)}
    return status_message(name, level, text, values)
