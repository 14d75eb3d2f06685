"""What a run says while it goes on: a bar, TensorBoard, and the progress file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
import sys
import time
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vla_alignment_ros.training.progress import Progress, RUNNING, write_progress

LOG_FOLDER = 'tensorboard'
PROGRESS_S = 1.0  # between two looks at the loss, which waits for the device
LINE_S = 10.0  # between two lines where no bar can be drawn
Values = dict[str, Any]


class RunLog:
    """Logs of one process of a run; all but the main one are silent.

    Args:
        folder: of the run.
        first, steps: steps done before, and in all.
        samples: of one step, all processes together.
        every: steps between two entries.
        main: whether this is the process that speaks.
        on_entry: is told every entry, with 'step' and 'steps'.
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        steps: int,
        samples: int,
        every: int,
        main: bool,
        on_entry: Callable[[Values], None] | None = None,
    ) -> None:
        self._folder, self._first, self._steps, self._samples = folder, first, steps, samples
        self._every, self._main, self._on_entry = every, main, on_entry
        self._step, self._loss = first, None
        self._writer = SummaryWriter(str(folder / LOG_FOLDER), purge_step=first) if main else None
        drawn = main and sys.stderr.isatty()  # in a file it would be one endless line
        self._bar = tqdm(
            total=steps, initial=first, disable=not drawn, unit='step', smoothing=0.05,
            mininterval=1.0,
        )  # fmt: skip
        self._started, self._worked = time.monotonic(), time.process_time()
        self._told = self._written = -float('inf')
        self._tell(RUNNING)

    def step(self, step: int, log: Mapping[str, torch.Tensor]) -> None:
        """A step is done; `step` counts it."""
        self._step = step
        if not self._main:
            return
        self._bar.update()
        now = time.monotonic()
        if step % self._every == 0:
            self._enter({name: float(value) for name, value in log.items()}, now)
        if now - self._told >= PROGRESS_S or step % self._every == 0:
            self._loss = float(log['loss/total'])
            self._tell(RUNNING, now)

    def figures(self, values: Mapping[str, float]) -> None:
        """Figures of a validation."""
        if self._main:
            for name, value in values.items():
                self._writer.add_scalar(f'validation/{name}', value, self._step)
            shown = ', '.join(f'{name} {value:.4g}' for name, value in values.items())
            self.say(f'step {self._step}: {shown}')

    def say(self, text: str) -> None:
        """A line for people."""
        if self._main:
            tqdm.write(text)

    def close(self, state: str) -> None:
        """The last words: one of `progress.STATES`."""
        self._bar.close()
        if self._main:
            self._writer.close()
            self._tell(state)

    def _enter(self, values: Values, now: float) -> None:
        done = (self._step - self._first) * self._samples
        values['speed/samples_per_s'] = done / (now - self._started)
        # on a machine that is busy with other work this is the one to compare
        values['speed/samples_per_cpu_s'] = done / (time.process_time() - self._worked)
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._step)
        shown = {'loss': f'{values["loss/total"]:.3f}', 'act': f'{values["loss/action"]:.4f}'}
        if 'diagnostics/keyframe_mm' in values:
            shown['kf_mm'] = f'{values["diagnostics/keyframe_mm"]:.0f}'
        shown['frames/s'] = f'{values["speed/samples_per_s"]:.0f}'
        self._bar.set_postfix(shown, refresh=False)
        if self._bar.disable and now - self._written >= LINE_S:
            self._written = now
            said = ', '.join(f'{name} {value}' for name, value in shown.items())
            self.say(f'step {self._step} of {self._steps}: {said}')
        if self._on_entry is not None:
            self._on_entry({'step': self._step, 'steps': self._steps, **values})

    def _tell(self, state: str, now: float | None = None) -> None:
        if not self._main:
            return
        self._told = time.monotonic() if now is None else now
        spent_s = self._told - self._started
        speed = (self._step - self._first) / spent_s if spent_s > 0 else 0.0
        progress = Progress(state, self._step, self._steps, self._loss, speed)
        with suppress(OSError):  # the run is worth more than the word about it
            write_progress(self._folder, progress)
