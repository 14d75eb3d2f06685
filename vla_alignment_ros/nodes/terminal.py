"""The keys of a terminal, one by one; and the terminal as it was, whatever happens.

No ROS in here.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
import os
import select
import sys
import termios
import threading
import tty
from typing import TextIO

from vla_alignment_ros.control.keys import KeyParser
from vla_alignment_ros.errors import ConfigError

PAUSE_S = 0.05  # a lone Escape is the key, not the beginning of a sequence, after so long


class Terminal:
    """Reads keys from a terminal while it is open. A context manager.

    Ctrl-C interrupts as ever; the two keys that would leave the terminal as it is now, stopping
    or dumping the process, mean nothing.

    Args:
        on_key: takes each key, in a thread of its own.
        on_end: is told when the terminal is gone, or `on_key` raised.
        stream: whose terminal it is.

    Raises ConfigError where the stream is no terminal, or this process not in its foreground.
    """

    def __init__(
        self,
        on_key: Callable[[str], None],
        on_end: Callable[[], None],
        stream: TextIO = sys.stdin,
    ) -> None:
        if not stream.isatty():
            raise ConfigError(
                'keyboard is set, but the standard input is no terminal: start the node from one '
                '(ros2 launch gives it none), or use a pad'
            )
        self._fd = stream.fileno()
        if not _in_foreground(self._fd):
            raise ConfigError('keyboard is set, but the node runs in the background: no key comes')
        self._on_key, self._on_end = on_key, on_end
        self._before = termios.tcgetattr(self._fd)
        self._wake, self._waker = os.pipe()
        self._closing = threading.Event()
        self._restored = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name='keys', daemon=True)
        atexit.register(self.restore)
        try:
            self._make_raw()
            self._thread.start()
        except BaseException:
            self.restore()
            raise

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back, and read no more keys."""
        self.restore()
        if not self._closing.is_set():
            self._closing.set()
            os.write(self._waker, b'.')
            if self._thread is not threading.current_thread():
                self._thread.join()
        atexit.unregister(self.restore)

    def restore(self) -> None:
        """Make the terminal what it was, once; at any time, from any thread."""
        with self._lock:
            done, self._restored = self._restored, True
        if done:
            return
        try:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
            termios.tcflush(self._fd, termios.TCIFLUSH)  # keys that were meant for the arm
        except termios.error:  # it is gone
            return

    # -- inside ---------------------------------------------------------------------------------

    def _make_raw(self) -> None:
        tty.setcbreak(self._fd)
        now = termios.tcgetattr(self._fd)
        for character in (termios.VSUSP, termios.VQUIT):
            now[6][character] = b'\0'  # _POSIX_VDISABLE
        termios.tcsetattr(self._fd, termios.TCSANOW, now)

    def _run(self) -> None:
        parser = KeyParser()
        try:
            while not self._closing.is_set():
                patience_s = PAUSE_S if parser.waiting else None
                ready, _, _ = select.select([self._fd, self._wake], [], [], patience_s)
                keys = parser.pause() if not ready else []
                if self._fd in ready:
                    data = self._read()
                    if not data:
                        return
                    keys = parser.feed(data)
                for key in keys:
                    self._on_key(key)
        finally:
            self.restore()
            if not self._closing.is_set():
                self._on_end()

    def _read(self) -> bytes:
        """What was typed; nothing where the terminal is gone."""
        try:
            return os.read(self._fd, 1024)
        except OSError:
            return b''


def _in_foreground(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not the controlling terminal of this process: nobody stops it
        return True
