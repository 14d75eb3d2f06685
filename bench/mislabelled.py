"""Does `vla_bag check` find wrong labels? `python -m bench.mislabelled FOLDER`.

Episodes of a folder are copied, some of them are relabelled with what was said in another one, and
the copy is checked as a user would. Counted is how many of the wrong labels are found, and how
many of those that are found are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import sys
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from vla_alignment_ros.cli import vla_bag
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.bag_format import EpisodeInfo
from vla_alignment_ros.data.merge import do_merge, plan_merge
from vla_alignment_ros.data.relabel import apply_label, Label, plan_label
from vla_alignment_ros.errors import ConfigError, VlaError
from vla_alignment_ros.evaluation.stats import wilson_interval

Kind = Literal['any', 'near']


@dataclass(frozen=True)
class Options:
    """Label episodes wrongly on purpose, and count what `vla_bag check` finds."""

    folder: tyro.conf.Positional[Path]
    """Recorded episodes with the notes `group`, `target` and `labels`, as the expert's have."""
    out: Annotated[Path, tyro.conf.arg(metavar='DIR')] = Path('runs/mislabelled')
    """Folder for the copies, which must not exist, and for what was found."""
    episodes: int = 120
    """How many are copied, evenly from all of the folder."""
    share: float = 0.1
    """How many of them are labelled wrongly."""
    wrong: Kind = 'any'
    """With what another episode says (any), or with another thing or place of the same scene
    (near)."""
    seed: int = 0
    """Draws which, and what they say."""
    checkpoint: str = 'tabletop'
    """The policy that is asked."""


@dataclass(frozen=True)
class Counts:
    """What was found of what is wrong."""

    episodes: int
    wrong: int  # labels that are
    found: int  # of them
    accused: int  # right labels that were taken for wrong ones
    suggested: int  # of those found: with a sentence that means what was done
    sayable: int  # of those found: some other episode has such a sentence

    @property
    def recall(self) -> float:
        return self.found / self.wrong

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.accused)

    def __str__(self) -> str:
        """A row of a table: share and 95 % interval of both."""
        named = self.found + self.accused
        cells = [
            f'{self.episodes}',
            f'{self.wrong}',
            f'{self.found} of {self.wrong} = {_percent(self.found, self.wrong)}',
            f'{self.found} of {named} = {_percent(self.found, named)}',
            f'{self.suggested} of {self.sayable}',
        ]
        return '| ' + ' | '.join(cells) + ' |'


def _percent(count: int, total: int) -> str:
    low, high = wilson_interval(count, total)
    return f'{100 * count / max(1, total):.0f} % ({100 * low:.0f}–{100 * high:.0f})'


def mislabel(
    episodes: Sequence[EpisodeInfo], share: float, seed: int, wrong: Kind = 'any'
) -> dict[str, str]:
    """Give some episodes a wrong label; name -> the group of what they truly show.

    Raises:
        ConfigError: no wrong sentence is known for an episode.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(episodes), max(1, round(share * len(episodes))), replace=False)
    truth = {}
    for info in (episodes[number] for number in sorted(chosen)):
        if wrong == 'any':
            sentences = [
                e.instruction for e in episodes if e.extra['group'] != info.extra['group']
            ]
        else:
            sentences = _near(info)
        if not sentences:
            raise ConfigError(f'{info.path}: no wrong sentence is known for it')
        said = sentences[int(rng.integers(len(sentences)))]
        apply_label(plan_label(info, Label(said)))
        truth[info.name] = info.extra['group']
    return truth


def _near(info: EpisodeInfo) -> list[str]:
    """The same sentence with another thing of the scene, the other tray or the other side."""
    target, labels = info.extra['target'], json.loads(info.extra['labels'])
    trays = [label for label in labels if label.endswith(' tray')]
    others = [label for label in labels if label not in (target, *trays)]
    swaps = [(target, other) for other in others]
    swaps += [(a, b) for a in trays for b in trays if a != b]
    swaps += [('left', 'right'), ('right', 'left')]
    said = info.instruction
    return [said.replace(old, new) for old, new in swaps if old in said]


def measure(options: Options) -> Counts:
    """Copy, label wrongly, check, count.

    Raises:
        VlaError: the episodes cannot be copied or labelled, or nothing was checked.
    """
    paths = find_episodes(options.folder)
    if not 2 <= options.episodes <= len(paths) or not 0 < options.share < 1:
        raise ConfigError(
            f'--episodes must be 2…{len(paths)}, the episodes of {options.folder}, and --share '
            f'between 0 and 1'
        )
    copies, found = options.out / 'episodes', options.out / 'found.json'
    if copies.exists():
        raise ConfigError(f'{copies} exists already: what is in it may be labelled wrongly')
    spread = np.linspace(0, len(paths) - 1, options.episodes).round().astype(int)
    do_merge(plan_merge([paths[i] for i in spread], copies), link=False)
    infos = [EpisodeReader(path).info for path in find_episodes(copies)]
    groups = {info.name: info.extra['group'] for info in infos}
    truth = mislabel(infos, options.share, options.seed, options.wrong)
    (options.out / 'wrong.json').write_text(json.dumps(truth, indent=1) + '\n', encoding='utf-8')
    arguments = ['check', str(copies), '--checkpoint', options.checkpoint, '--json', str(found)]
    if vla_bag.main(arguments) not in (0, 1):
        raise ConfigError('nothing was checked')
    return count(json.loads(found.read_text(encoding='utf-8'))['found'], groups, truth)


def count(
    found: Sequence[Mapping[str, Any]], groups: Mapping[str, str], truth: Mapping[str, str]
) -> Counts:
    """Compare what was found with what was done.

    Args:
        found: of `vla_bag check --json`.
        groups: name -> what it shows, of every episode.
        truth: the same of those that were labelled wrongly.
    """
    meanings = {e['instruction']: groups[Path(e['path']).name] for e in found
                if Path(e['path']).name not in truth}  # fmt: skip
    hits = accused = suggested = sayable = 0
    for episode in found:
        name = Path(episode['path']).name
        labels = [f for f in episode['findings'] if f['kind'] == 'label']
        if not labels:
            continue
        if name not in truth:
            accused += 1
            continue
        hits += 1
        sayable += truth[name] in meanings.values()
        suggested += meanings.get(labels[0].get('suggestion')) == truth[name]
    return Counts(len(found), len(truth), hits, accused, suggested, sayable)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line where the user can mend something."""
    options = tyro.cli(Options, args=arguments, prog='python -m bench.mislabelled')
    try:
        print(measure(options))
    except VlaError as error:
        print(f'bench.mislabelled: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
