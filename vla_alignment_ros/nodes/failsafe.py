"""Whatever goes wrong while an arm is served is counted, logged, and answered with a hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import traceback

from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.nodes.diagnostics import Causes


class FailSafe:
    """Guards blocks of code that an arm depends on: nothing gets out of them.

    Args:
        hold: holds the arm; stamp in ns, and why.
        log: takes the first error of each cause, and tracebacks of what should not happen.
    """

    def __init__(self, hold: Callable[[int, str], None], log: Callable[[str], None]) -> None:
        self.causes = Causes()  # of everything that went wrong
        self._hold, self._log = hold, log

    @contextmanager
    def during(
        self, ts_ns: int, steered: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """What goes wrong inside is counted, logged, and answered with a hold at ts_ns.

        steered: whether somebody moves the arm whom this does not concern; then nothing holds.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a robot must not run on in silence
            if not isinstance(error, VlaError):
                self._log(traceback.format_exc())
            cause = type(error).__name__
            reason = str(error) if isinstance(error, VlaError) else f'{cause}: {error}'
            if self.causes.add(cause) == 1:
                self._log(f'held: {reason} (further ones are only counted)')
            if not steered():
                self._answer(ts_ns, reason)

    def _answer(self, ts_ns: int, reason: str) -> None:
        try:
            self._hold(ts_ns, reason)
        except Exception:  # noqa: BLE001 - the same; the watchdog goes on trying
            self.causes.add('hold not sent')
            self._log(traceback.format_exc())
