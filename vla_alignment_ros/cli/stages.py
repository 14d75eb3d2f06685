"""A chain of commands that goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import signal
import subprocess
import time

from rich.console import Console

from vla_alignment_ros.errors import ConfigError

SAVING_S = 120.0  # how long an interrupted stage may take to save


@dataclass(frozen=True)
class Stage:
    """One command and the settings that its result depends on (those of earlier stages too)."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, object]


def run_stages(folder: Path, stages: Sequence[Stage], console: Console) -> int:
    """Run the stages in order; return 0, or the exit code of the one that failed.

    A stage leaves `<name>.stage.json`: its settings, and whether it has finished. Finished with
    the same settings it is left out, begun with the same settings it is run again (its command
    is expected to resume).

    Raises ConfigError where a stage's result is from other settings: nothing is overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {}
    for number, stage in enumerate(stages, 1):
        settings = settings | {f'{stage.name}.{k}': v for k, v in stage.settings.items()}
        mark = folder / f'{stage.name}.stage.json'
        known = _read(mark)
        if known is not None and known['settings'] != settings:
            raise ConfigError(_difference(mark, known['settings'], settings))
        title = f'{number}/{len(stages)}  {stage.name}'
        if known is not None and known['finished']:
            console.print(f'{title}: already there ({known["seconds"]:.0f} s when it was made)')
            continue
        console.rule(title, align='left')
        spent_s = known['seconds'] if known is not None else 0.0
        started = time.monotonic()
        _write(mark, settings, False, spent_s)
        try:
            code = _run(stage.command)
        finally:
            spent_s += time.monotonic() - started
            _write(mark, settings, False, spent_s)
        if code != 0:
            return code
        _write(mark, settings, True, spent_s)
    return 0


def _run(command: Sequence[str]) -> int:
    """Run one command; interrupted, it is asked once to end, and given time to save."""
    child = subprocess.Popen(command, start_new_session=True)  # hears only what we pass on
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(SAVING_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise


def _read(mark: Path) -> dict | None:
    if not mark.is_file():
        return None
    try:
        known = json.loads(mark.read_text(encoding='utf-8'))
        return {
            'settings': dict(known['settings']),
            'finished': bool(known['finished']),
            'seconds': float(known['seconds']),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{mark} is damaged; delete it to run its stage again') from error


def _write(mark: Path, settings: Mapping[str, object], finished: bool, seconds: float) -> None:
    content = {'finished': finished, 'seconds': round(seconds, 1), 'settings': settings}
    temporary = mark.with_suffix('.tmp')
    temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    temporary.replace(mark)


def _difference(
    mark: Path, old: Mapping[str, object], new: Mapping[str, object]
) -> str:
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return (
        f'{mark.parent} holds a run with other settings ({", ".join(changed)}); give another '
        f'--out, or delete {mark.name} and what it made'
    )
