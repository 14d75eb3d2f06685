"""What `vla_evaluate --alignment` runs: measure, draw, write, and show the figures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table
import torch

from vla_alignment_ros.cli.console import command_line
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation.alignment import (
    AlignmentEvaluation,
    evaluate_alignment,
    MATCHED_SPLITS,
    write_figures,
)
from vla_alignment_ros.evaluation.probe import AlignmentProbe
from vla_alignment_ros.policy.policy import Policy


def run(
    console: Console,
    checkpoint: Path,
    episodes: int,
    seed: int,
    device: str,
    figures: Path | None,
    report: Path | None,
    training_logs: Path | None,
) -> int:
    """Evaluate the alignment of a checkpoint on `episodes` scenes of each split.

    Raises VlaError for what a user can mend.
    """
    if report is not None and find_spec('matplotlib') is None:
        raise ConfigError('pictures need matplotlib: install it with pip, or leave out --report')
    torch.set_num_threads(1)  # another number of threads rounds differently
    policy = Policy.load(checkpoint, device=device)
    logs = None
    if report is not None:
        from vla_alignment_ros.evaluation import alignment_report

        logs = alignment_report.event_folder(checkpoint, training_logs)
    with console.status('…') as status:
        found = evaluate_alignment(policy, str(checkpoint), episodes, seed, status.update)
        if report is not None:
            status.update('drawing')
            pictures = alignment_report.draw(found, AlignmentProbe(policy), logs)
            about = {
                'checkpoint': str(checkpoint),
                'episodes': str(episodes),
                'seed': str(seed),
                'device': str(policy.device),
            }
            page = alignment_report.write_alignment_report(
                report, found, pictures, command_line(), about
            )
    console.print(summary_table(found))
    if figures is not None:
        write_figures(figures, found)
        console.print(f'figures: {figures}', highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f'report:  {page}', highlight=False, soft_wrap=True)
    return 0


def summary_table(found: AlignmentEvaluation) -> Table:
    """The figures worth a glance, a column per split."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column(f'{found.episodes} scenes of each split')
    for split in MATCHED_SPLITS:
        table.add_column(split, justify='right')
    for name, values in _summary(found.figures).items():
        table.add_row(name, *values)
    return table


def _summary(figures: dict) -> dict[str, list[str]]:
    def row(read, form: str) -> list[str]:
        values = [read(split) for split in MATCHED_SPLITS]
        return ['—' if value is None else form.format(value) for value in values]

    def grounded(split: str, kind: str, name: str) -> float | None:
        first = next(iter(figures['grounding'][split].values()))
        return first[kind][name]['rate'] if kind in first else None

    match, found = figures['matching'], figures['retrieval']
    shot = figures['zero_shot']['regions']
    return {
        'AUROC there / missing, same scene': row(lambda s: match[s]['auroc_same_scene'], '{:.3f}'),
        'AUROC there / absent, other scenes': row(
            lambda s: match[s]['auroc_absent_split'], '{:.3f}'
        ),
        'calibration error': row(lambda s: match[s]['calibration']['ece'], '{:.3f}'),
        'action turns with the words': row(
            lambda s: figures['action_swap'][s]['relative_change'], '{:.2f}'
        ),
        'attention on the named thing': row(lambda s: grounded(s, 'sentence', 'strict'), '{:.0%}'),
        'attention within one cell': row(lambda s: grounded(s, 'sentence', 'near'), '{:.0%}'),
        'zero-shot colour': row(lambda s: shot[s]['colour']['accuracy'], '{:.0%}'),
        'zero-shot shape': row(lambda s: shot[s]['shape']['accuracy'], '{:.0%}'),
        'zero-shot pair, trained': row(lambda s: shot[s]['pair_trained']['accuracy'], '{:.0%}'),
        'zero-shot pair, never trained': row(
            lambda s: shot[s]['pair_never_trained']['accuracy'], '{:.0%}'
        ),
        'R@1 scene → sentence': row(
            lambda s: found[s]['by_score']['scene_to_sentence']['recall_at_1'], '{:.0%}'
        ),
        'R@1 sentence → scene': row(
            lambda s: found[s]['by_score']['sentence_to_scene']['recall_at_1'], '{:.0%}'
        ),
    }
