"""Running a node as a process: executor, signals, exit code, and work off the executor thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future as WorkerFuture
from concurrent.futures import ThreadPoolExecutor
import gc
import signal
import sys
import threading
import traceback
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from vla_alignment_ros.errors import VlaError
from vla_alignment_ros.nodes.memory import keep_freed_memory
from vla_alignment_ros.nodes.usage import help_text, wants_help

try:
    from rclpy.experimental import EventsExecutor
except ImportError:  # distributions before Kilted
    EventsExecutor = None

# EventsExecutor.spin() waits for a point in time so far away that some builds wrap round and
# never sleep (half a core, idle); a wait that ends does not have that
LONG_WAIT_S = 3600.0


def make_executor(context: rclpy.Context | None = None) -> Executor:
    """An EventsExecutor where this rclpy has one, else a MultiThreadedExecutor."""
    if EventsExecutor is not None:
        return EventsExecutor(context=context)
    return MultiThreadedExecutor(num_threads=4, context=context)

# by executor, for those who are given a node and have something for its executor to look at
_SPINNERS: dict[Executor, Spinner] = {}


class Spinner:
    """Spins nodes in a thread of its own until closed; a context manager.

    So the main thread stays free for signals, and a node can say its last words (a hold) on a
    context that still works. An error that escapes a callback is kept in `error` and ends it.
    """

    def __init__(
        self,
        *nodes: Node,
        context: rclpy.Context | None = None,
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        self.error: BaseException | None = None
        self._context = context
        self._on_error = on_error
        self._closing = threading.Event()
        self._turn: Future = Future()  # ends when somebody wants what awaits looked at
        self.executor = make_executor(context)
        _SPINNERS[self.executor] = self
        for node in nodes:
            self.executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name='executor')
        self._thread.start()

    def __enter__(self) -> Spinner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop spinning; returns when the last callback has."""
        self._closing.set()
        self.executor.shutdown()  # a mere wake() does not make every executor return
        self._thread.join()
        _SPINNERS.pop(self.executor, None)

    def look(self) -> None:
        """Go on with callbacks whose futures are done; from any thread."""
        self._turn.set_result(None)

    def _spin(self) -> None:
        try:
            while not self._closing.is_set() and rclpy.ok(context=self._context):
                # EventsExecutor looks at callbacks that await as it begins to spin, and whenever
                # something else happened; `spin_once` in a loop would do nothing but that
                turn = self._turn = Future()
                self.executor.spin_until_future_complete(turn, timeout_sec=LONG_WAIT_S)
        except ExternalShutdownException:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            self.error = error
            traceback.print_exc()
            self._on_error()


def run(
    factory: Callable[[], Node],
    args: Sequence[str] | None = None,
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> int:
    """Run one node until one of the signals; the exit code: 0, or 1 when it could not go on.

    With `--help` it is only described.

    `node.begin()`, where there is one, is called once the node spins; `node.close()` before it is
    destroyed, while publishing still works. A second signal ends the process the hard way.
    """
    if wants_help(sys.argv[1:] if args is None else args):
        return _describe(factory)
    keep_freed_memory()
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.signal(number, on_signal) for number in signals}
    try:
        with rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO):
            return _serve(factory, stop)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # the process ends now; without this it would look for garbage in all of torch first,
        # which takes two seconds, and longer than launch's patience on a busy machine
        gc.freeze()


def _describe(factory: Callable[[], Node]) -> int:
    with rclpy.init(args=[]):
        node = factory()
        print(help_text(node))
        node.destroy_node()
    return 0


def _serve(factory: Callable[[], Node], stop: threading.Event) -> int:
    try:
        node = factory()
    except (VlaError, ParameterException) as error:  # the user can mend these
        print(f'error: {error}', file=sys.stderr)
        return 1
    try:
        with Spinner(node, on_error=stop.set) as spinner:
            try:
                getattr(node, 'begin', lambda: None)()
                stop.wait()
            finally:
                getattr(node, 'close', lambda: None)()
        return 1 if spinner.error else 0
    finally:
        node.destroy_node()


class ClosingError(VlaError):
    """The node is ending and takes no more work."""


class Worker:
    """One thread for what must not run in a callback, in order; it can be closed at any time."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, function: Callable[..., Any], *args: Any) -> WorkerFuture:
        """Run a function in the thread; after `close` the answer is a ClosingError."""
        try:
            return self._pool.submit(function, *args)
        except RuntimeError:  # callbacks may still come in while a node ends
            late: WorkerFuture = WorkerFuture()
            late.set_exception(ClosingError('the node is ending'))
            return late

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._pool.shutdown(wait=True)


def off_executor(node: Node, worker: Worker, function: Callable[..., Any], *args: Any) -> Future:
    """Run a function in `worker`; the result can be awaited in a callback of `node`."""
    executor = node.executor
    future = Future(executor=executor)

    def finish(done: WorkerFuture) -> None:
        error = done.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())
        spinner = _SPINNERS.get(executor)
        if spinner is not None:
            spinner.look()

    worker.submit(function, *args).add_done_callback(finish)
    return future
