"""What `vla_evaluate --calibrate` runs: measure, show old and new, write the new one."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
import torch

from vla_alignment_ros.cli.console import command_line
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.policy.checkpoint import save_recalibrated
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.training.recalibration import recalibrate, Recalibration
from vla_alignment_ros.training.validation import FALSE_HOLD


def run(
    console: Console,
    checkpoint: Path,
    bags: Sequence[Path],
    seed: int,
    device: str,
    figures: Path | None,
    out: Path | None,
    in_place: bool,
) -> int:
    """Calibrate a checkpoint's gate on `bags`; write it to `out`, in place, or nowhere.

    Raises VlaError for what a user can mend.
    """
    if out is not None and in_place:
        raise ConfigError('give --out for a copy, or --in-place, not both')
    if out is not None and out.exists():
        raise ConfigError(f'{out} is there already; choose another --out, or remove it')
    torch.set_num_threads(1)  # another number of threads rounds differently
    policy = Policy.load(checkpoint, device=device)
    found = recalibrate(policy.checkpoint, bags, seed, progress=console.is_terminal)
    console.print(summary_table(found))
    for line in _remarks(found):
        console.print(line, highlight=False, soft_wrap=True)
    if figures is not None:
        figures.write_text(json.dumps(found.to_dict(), indent=2) + '\n', encoding='utf-8')
        console.print(f'figures: {figures}', highlight=False, soft_wrap=True)
    target = checkpoint if in_place else out
    if target is None:
        text = 'nothing is written: give --out for a copy of the checkpoint, or --in-place'
    else:
        note = {'command': command_line(), **found.to_dict()}
        text = f'checkpoint: {save_recalibrated(checkpoint, target, found.after, note)}'
    console.print(text, highlight=False, soft_wrap=True)
    return 0


def summary_table(found: Recalibration) -> Table:
    """Old and new thresholds, and what they do, side by side."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column(f'{found.episodes} episodes, {found.sentences} sentences')
    for name in ('of', 'old', 'new'):
        table.add_column(name, justify='right')
    scores = found.scores
    old, new = scores.figures(found.before), scores.figures(found.after)
    rows = (
        ('AUROC, right against wrong sentence', 'vl_auroc', '{:.3f}', ''),
        ('right sentence refused at the start', 'gate_refused', '{:.1%}', len(scores.matched)),
        ('right sentence held on the way', 'gate_false_hold', '{:.1%}', len(scores.everywhere)),
        ('wrong sentence let through', 'gate_false_go', '{:.1%}', len(scores.mismatched)),
    )
    for text, key, form, count in rows:
        table.add_row(text, str(count), form.format(old[key]), form.format(new[key]))
    for name in ('go', 'hold', 'slope', 'offset'):
        values = (getattr(c, name) for c in (found.before, found.after))
        table.add_row(name, '', *(f'{value:.4g}' for value in values))
    return table


def _remarks(found: Recalibration) -> list[str]:
    lines = [f'left out: {path}: {why}' for path, why in found.skipped.items()]
    if len(found.scores.everywhere) * FALSE_HOLD < 1:
        lines.append(
            f'hold is the lowest of {len(found.scores.everywhere)} moments; with '
            f'{round(1 / FALSE_HOLD)} and more it is a quantile'
        )
    return lines
