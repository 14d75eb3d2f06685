"""The label of a recorded episode, set anew: its metadata is replaced, its messages stay.

What was said while an episode was recorded stays in it, as messages. A relabelled episode says so
in a note (`instruction_from: relabelled`), and from then on the instruction in its metadata is the
label of all of it: for training, for checking and for whoever else reads it (`data.episode`).
What it said before is kept in the note `relabelled`, oldest first.

Notes that speak of the sentence (what it names, what is to be done) do not outlive it: with a new
instruction they too are kept in `relabelled`, and those given with it take their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import csv
from dataclasses import dataclass, field
from datetime import datetime, timezone
import json
from pathlib import Path

import yaml

from vla_alignment_ros.data.bag_format import (
    EpisodeInfo,
    INSTRUCTION_FROM,
    RELABELLED,
    SUCCESS_TEXTS,
)
from vla_alignment_ros.data.bag_metadata import rewrite_custom_data
from vla_alignment_ros.errors import BagError
from vla_alignment_ros.observation import MAX_INSTRUCTION_CHARS, normalize_instruction

HISTORY = 'relabelled'  # the note that keeps what a bag said before
ABOUT_SENTENCE = ('task', 'group', 'target', 'tray', 'side')  # notes that a new sentence outdates
COLUMNS = ('episode', 'instruction', 'success', *ABOUT_SENTENCE)  # of a table
REMARKS = ('was', 'why')  # columns of a table for people
VERDICTS: dict[str, bool | None] = {'yes': True, 'no': False, 'unknown': None}


@dataclass(frozen=True)
class Label:
    """What an episode is to say; None leaves as it is what the episode says.

    Raises:
        BagError: nothing to set, no words in the instruction or too many, an unknown verdict or
            note.
    """

    instruction: str | None = None
    success: str | None = None  # yes, no or unknown
    notes: Mapping[str, str] = field(default_factory=dict)  # of ABOUT_SENTENCE

    def __post_init__(self) -> None:
        if self.instruction is None and self.success is None:
            raise BagError('say what to set: an instruction, a success, or both')
        if self.instruction is not None:
            if not normalize_instruction(self.instruction):
                raise BagError(f'the instruction {self.instruction!r} has no words')
            if len(self.instruction) > MAX_INSTRUCTION_CHARS:
                raise BagError(
                    f'an instruction of {len(self.instruction)} characters is too long: '
                    f'{MAX_INSTRUCTION_CHARS} are read'
                )
        if self.success is not None and self.success not in VERDICTS:
            raise BagError(f'success must be {", ".join(VERDICTS)}, got {self.success!r}')
        unknown = sorted(set(self.notes) - set(ABOUT_SENTENCE))
        if unknown:
            raise BagError(
                f'note {", ".join(unknown)} cannot be set; allowed: {", ".join(ABOUT_SENTENCE)}'
            )


@dataclass(frozen=True)
class Change:
    """One episode before and after."""

    info: EpisodeInfo
    instruction: str
    success: bool | None
    custom: Mapping[str, str | None]  # custom data to set; None removes it; empty: nothing to do


def plan_label(info: EpisodeInfo, label: Label) -> Change:
    """What setting a label changes in an episode; nothing is written.

    Raises:
        BagError: the notes of the bag cannot be kept, because they are not what they should be.
    """
    instruction = info.instruction if label.instruction is None else label.instruction
    success = info.success if label.success is None else VERDICTS[label.success]
    custom: dict[str, str | None] = {}
    before: dict[str, object] = {}
    if label.instruction is not None and (instruction != info.instruction or not info.relabelled):
        # a label that was meant is written even where it reads the same: messages may say another
        before['instruction'] = info.instruction
        custom |= {'instruction': instruction, INSTRUCTION_FROM: RELABELLED}
    same = normalize_instruction(instruction) == normalize_instruction(info.instruction)
    notes = {name: info.extra[name] for name in ABOUT_SENTENCE if name in info.extra}
    wanted = notes | dict(label.notes) if same else dict(label.notes)
    if wanted != notes:
        before['notes'] = notes
        custom |= {name: wanted.get(name) for name in {*notes, *wanted}}
    if success != info.success:
        before['success'] = _verdict(info.success)
        custom['success'] = SUCCESS_TEXTS[success]
    if custom:
        before['utc'] = datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
        custom[HISTORY] = json.dumps([*history(info), before], ensure_ascii=False)
    return Change(info, instruction, success, custom)


def plan_undo(info: EpisodeInfo) -> Change:
    """What taking back the newest relabelling changes; nothing is written.

    Raises:
        BagError: what the bag says about before is not what `plan_label` writes.
    """
    *earlier, before = history(info) or [{}]
    custom: dict[str, str | None] = {}
    instruction, success = info.instruction, info.success
    if before:
        custom[HISTORY] = json.dumps(earlier, ensure_ascii=False) if earlier else None
    if 'instruction' in before:
        instruction = str(before['instruction'])
        still = any('instruction' in entry for entry in earlier)
        custom |= {'instruction': instruction, INSTRUCTION_FROM: RELABELLED if still else None}
    if 'notes' in before:
        custom |= {name: before['notes'].get(name) for name in ABOUT_SENTENCE}
    if 'success' in before:
        success = VERDICTS[before['success']]
        custom['success'] = SUCCESS_TEXTS[success]
    return Change(info, instruction, success, custom)


def apply_label(change: Change) -> None:
    """Write a planned change: the bag says either all of the old or all of the new.

    Raises:
        BagError: the metadata changed meanwhile beyond reading, or cannot be written.
    """
    if change.custom:
        rewrite_custom_data(change.info.path, change.custom)


def history(info: EpisodeInfo) -> list[dict[str, object]]:
    """What an episode said before it was relabelled, oldest first.

    Raises:
        BagError: the note is not what `plan_label` writes.
    """
    try:
        past = json.loads(info.extra.get(HISTORY, '[]'))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BagError(f'{info.path}: the note {HISTORY!r} is not JSON: {error}') from error
    if not isinstance(past, list) or not all(map(_is_entry, past)):
        raise BagError(f'{info.path}: the note {HISTORY!r} is not what `vla_bag relabel` writes')
    return past


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    notes = entry.get('notes', {})
    return (
        isinstance(entry.get('instruction', ''), str)
        and entry.get('success', 'yes') in tuple(VERDICTS)
        and isinstance(notes, dict)
        and all(isinstance(value, str) for value in notes.values())
    )


def _verdict(success: bool | None) -> str:
    return next(word for word, verdict in VERDICTS.items() if verdict is success)


# -- tables -------------------------------------------------------------------------------------


def read_table(file: Path) -> dict[str, Label]:
    """Labels by episode from a CSV file with a head line (COLUMNS, REMARKS) or from YAML.

    YAML: episode -> instruction, or episode -> a mapping of the same names. An empty cell leaves
    what the episode says.

    Raises:
        BagError: the file cannot be read, or a row is not a label; the row is named.
    """
    try:
        if file.suffix.lower() in ('.yaml', '.yml'):
            rows = _yaml_rows(yaml.safe_load(file.read_text(encoding='utf-8')))
        else:
            with file.open(encoding='utf-8-sig', newline='') as lines:
                rows = list(csv.DictReader(lines, strict=True))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, csv.Error, RecursionError) as error:
        raise BagError(f'cannot read the table {file}: {error}') from error
    labels: dict[str, Label] = {}
    for number, row in enumerate(rows, 1):
        try:
            name, label = _row(row)
            if name in labels:
                raise BagError(f'{name!r} has more than one row')
            labels[name] = label
        except BagError as error:
            raise BagError(f'{file}, episode {number}: {error}') from error
    if not labels:
        raise BagError(f'{file} names no episode')
    return labels


def _yaml_rows(data: object) -> list[dict[str, object]]:
    if not isinstance(data, dict):
        raise BagError('a YAML table maps episodes to instructions')
    return [
        {'episode': str(name), **value} if isinstance(value, dict)
        else {'episode': str(name), 'instruction': value}
        for name, value in data.items()
    ]  # fmt: skip


def _row(row: Mapping[str | None, object]) -> tuple[str, Label]:
    unknown = [str(name) for name in row if name not in (*COLUMNS, *REMARKS)]
    if unknown:
        raise BagError(
            f'column {", ".join(unknown)} is unknown; allowed: {", ".join((*COLUMNS, *REMARKS))}'
        )
    wrong = [k for k, v in row.items() if not (v is None or isinstance(v, str))]
    if wrong:
        raise BagError(f'{wrong[0]} must be text, got {row[wrong[0]]!r}; write it in quotes')
    given = {name: value.strip() for name, value in row.items() if value and value.strip()}
    if 'episode' not in given:
        raise BagError('it names no episode (column "episode": a folder or the end of its path)')
    notes = {name: given[name] for name in ABOUT_SENTENCE if name in given}
    return given['episode'], Label(given.get('instruction'), given.get('success'), notes)


def plan_table(
    infos: Sequence[EpisodeInfo], table: Mapping[str, Label], where: str
) -> list[Change]:
    """The changes that a table asks for.

    Raises:
        BagError: an episode of the table is not among `infos`, is named twice, or its name
            stands for several.
    """
    by_name: dict[str, list[EpisodeInfo]] = {}
    for info in infos:
        by_name.setdefault(info.path.resolve().name, []).append(info)
    chosen: dict[Path, Change] = {}
    for name, label in table.items():
        parts = Path(name).parts
        alike = by_name.get(parts[-1] if parts else '', ())
        found = [info for info in alike if info.path.resolve().parts[-len(parts) :] == parts]
        if not found:
            raise BagError(f'{where}: no {name!r} among the {len(infos)} episodes that were given')
        if len(found) > 1:
            raise BagError(f'{where}: {name!r} may be {_paths(found)}: write more of the path')
        if found[0].path in chosen:
            raise BagError(f'{where}: {found[0].path} has more than one row')
        chosen[found[0].path] = plan_label(found[0], label)
    return list(chosen.values())


def _paths(infos: Iterable[EpisodeInfo]) -> str:
    return ' or '.join(str(info.path) for info in infos)
