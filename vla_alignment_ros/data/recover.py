"""Makes whole bags of recordings that were cut off.

The messages that can still be read are written into a new bag beside the old one, with what the
recorder had kept beside them (embodiment, instruction, notes); nobody knows whether the task
was done. The old one is touched only when the new one is on the disk and has been read back:
a `.partial` folder is then removed, a bag that somebody else made stays.

Interrupted at any moment and called again, it ends with the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import shutil
from typing import Any

from rosbags.interfaces import Connection

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.bag_format import custom_data, EpisodeInfo, METADATA, read_info
from vla_alignment_ros.data.bag_places import (
    bag_in,
    COPY,
    is_recording,
    lock,
    PARTIAL,
    partial_of,
    Place,
    read_about,
    storage_files,
)
from vla_alignment_ros.data.bag_salvage import is_compressed, salvage, sqlite_page_bytes
from vla_alignment_ros.data.bag_writer import BagWriter, STORAGE_ERRORS
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError, EmbodimentError, WireError

NOTE = 'recovered'  # in a bag that was made here: what of
_MAGIC = b'\x89MCAP0\r\n'  # at both ends of a whole mcap file


@dataclass(frozen=True)
class Recovered:
    """What became of one recording."""

    source: Path
    path: Path  # the whole bag
    counts: dict[str, int]  # topic -> messages in it
    new: bool = True  # made now, and not before


@dataclass(frozen=True)
class _Source:
    """A recording and all that is known about it beside its messages."""

    folder: Path  # the bag
    token: str  # says in the new bag what it was made of
    embodiment: Embodiment | None
    instruction: str
    success: bool | None
    notes: dict[str, str]


def find_damaged(path: Path) -> list[Path]:
    """Recordings in or below a folder that are not whole, by a look at their ends.

    A bag, or a `.partial` folder, that is named itself is taken without that look.

    Raises:
        BagError: there is no such folder.
    """
    if not path.is_dir():
        raise BagError(f'no folder {path}: give recordings, or the folder that holds them')
    if path.name.endswith(PARTIAL) or storage_files(path):
        return [path]
    found = []
    for folder, subfolders, _ in os.walk(path):
        partial = [name for name in subfolders if name.endswith(PARTIAL)]
        found += [Path(folder, n) for n in partial if not n.endswith(f'{COPY}{PARTIAL}')]
        subfolders[:] = [name for name in subfolders if not name.startswith('.')]
        subfolders[:] = [name for name in subfolders if name not in partial]
        if storage_files(Path(folder)):
            subfolders.clear()  # a bag holds no bags
            if not _ends_well(Path(folder)):
                found.append(Path(folder))
    return sorted(found)


def recover_recording(source: Path) -> Recovered:
    """Make a whole bag of one recording, beside it.

    Raises:
        BagError: it is being recorded just now, nothing can be read, or the disk failed. Then
            it stays as it is.
    """
    try:
        if source.name.endswith(PARTIAL):
            return _recover_partial(source)
        return _recover_bag(source)
    except STORAGE_ERRORS as error:
        raise BagError(f'cannot recover {source}: {error}') from error


def _recover_partial(partial: Path) -> Recovered:
    with _locked(partial):
        folder = bag_in(partial)
        if folder is None:
            name = partial.name.removeprefix('.').removesuffix(PARTIAL)
            final = partial.with_name(name)
            if not (final / METADATA).is_file():
                raise BagError(f'{partial} holds no messages; it stays, remove it by hand')
            shutil.rmtree(partial)  # finished, and its shell was not removed any more
            return Recovered(partial, final, _counts(final), new=False)
        source = _source(folder, partial)
        final = partial.with_name(folder.name)
        if final.exists() and not _made_of(source, final):
            final = final.with_name(f'{final.name}_recovered')
        done = _rewrite(source, final)
        shutil.rmtree(partial)
        return Recovered(partial, final, *done)


def _recover_bag(folder: Path) -> Recovered:
    if not storage_files(folder):
        raise BagError(f'{folder} is no bag: it holds neither an mcap nor a db3 file')
    try:
        reader = EpisodeReader(folder)
        for _ in reader.messages():
            pass
        return Recovered(folder, folder, reader.info.message_counts, new=False)
    except BagError:  # as expected
        source = _source(folder)
    final = folder.with_name(f'{folder.name}_recovered')
    return Recovered(folder, final, *_rewrite(source, final))


def _rewrite(source: _Source, final: Path) -> tuple[dict[str, int], bool]:
    """Messages in the new bag by topic, and whether it was made now."""
    _remove_copy(final)
    if final.exists():
        if not _made_of(source, final):
            raise BagError(f'{final} exists already; it is not overwritten, move it away')
        return _counts(final), False
    files = storage_files(source.folder)
    place = Place(final, COPY)
    try:
        counts = _write(source, files, place)
        place.move()
    finally:
        place.remove()
    return dict(counts), True


def _write(source: _Source, files: list[Path], place: Place) -> Counter[str]:
    storage = 'mcap' if files[0].suffix == '.mcap' else 'sqlite3'
    split_bytes = max(file.stat().st_size for file in files) if len(files) > 1 else 0
    bag = BagWriter(place.bag, storage, is_compressed(files[0]), split_bytes)
    connections: dict[tuple[str, str], Connection] = {}
    counts: Counter[str] = Counter()
    said = f'/{source.embodiment.instruction_topic.lstrip("/")}' if source.embodiment else ''
    instruction = ''
    try:
        for file in files:
            for topic, ts_ns, raw in salvage(file, place.partial):
                if not 0 <= ts_ns < 2**63:
                    continue
                key = topic.name, topic.msgtype
                if key not in connections:
                    connections[key] = bag.connect(*topic)
                bag.write(connections[key], ts_ns, raw)
                counts[topic.name.lstrip('/')] += 1
                if topic.name == said:
                    instruction = _text(raw) or instruction
        if not counts:
            raise BagError(
                f'no message in {source.folder} can be read; it stays, remove it by hand'
            )
        extra = source.notes | {NOTE: source.token}
        instruction = source.instruction or instruction
        bag.close(custom_data(source.embodiment, instruction, source.success, extra))
    finally:
        bag.abort()
    for _ in EpisodeReader(place.bag).messages():  # raises where one is missing
        pass
    return counts


def _source(folder: Path, partial: Path | None = None) -> _Source:
    about = _about(partial)
    token = f'{partial.name} {about.get("id", "")}'.strip() if partial else folder.name
    info = _info(folder)
    if info is not None:  # was cut off after its end
        whole = partial is not None
        return _Source(
            folder, token, info.embodiment, info.instruction, info.success if whole else None,
            info.extra,
        )  # fmt: skip
    notes = {str(k): str(v) for k, v in dict(about.get('notes') or {}).items()}
    if about.get('incomplete'):
        notes['incomplete'] = str(about['incomplete'])
    try:
        embodiment = Embodiment.from_dict(about['embodiment']) if about.get('embodiment') else None
    except EmbodimentError:  # of another version; the messages are worth more
        embodiment = None
    return _Source(folder, token, embodiment, str(about.get('instruction', '')), None, notes)


def _about(partial: Path | None) -> dict[str, Any]:
    try:
        return read_about(partial) if partial is not None else {}
    except BagError:  # cut off too
        return {}


def _info(folder: Path) -> EpisodeInfo | None:
    try:
        return read_info(folder)
    except BagError:
        return None


def _counts(bag: Path) -> dict[str, int]:
    info = _info(bag)
    return {} if info is None else info.message_counts


def _made_of(source: _Source, bag: Path) -> bool:
    info = _info(bag)
    return info is not None and info.extra.get(NOTE) == source.token


def _text(raw: bytes) -> str:
    try:
        return wire.decode_string(raw)
    except WireError:
        return ''


def _remove_copy(final: Path) -> None:
    """Remove what an earlier try left."""
    left = partial_of(final, COPY)
    if left.exists():
        if is_recording(left):
            raise BagError(f'{final} is being recovered by another process')
        shutil.rmtree(left)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    try:
        descriptor = lock(partial)
    except BlockingIOError:
        raise BagError(f'{partial} is being recorded just now: stop the recorder first') from None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _ends_well(folder: Path) -> bool:
    return (folder / METADATA).is_file() and all(map(_file_ends_well, storage_files(folder)))


def _file_ends_well(file: Path) -> bool:
    size = file.stat().st_size
    with file.open('rb') as stream:
        head = stream.read(100)
        if file.suffix == '.mcap':
            stream.seek(max(0, size - len(_MAGIC)))
            return stream.read() == _MAGIC and size > 2 * len(_MAGIC)
    # sqlite's header says how many pages of which size there are; a journal beside it was not used
    pages = int.from_bytes(head[28:32], 'big')
    whole = len(head) == 100 and size >= pages * sqlite_page_bytes(file)
    return whole and not file.with_name(f'{file.name}-journal').exists()
