"""One recorded episode as a stream: of whole messages, of their beginnings, or of some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
import os
from pathlib import Path
import sys

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag_format import read_info, spell, topic_spelling
from vla_alignment_ros.data.mcap_places import PlacedMcap
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError

HEAD_BYTES = 64  # enough for the stamp of an image
WHOLE = sys.maxsize
_Unread = tuple[Connection, int, Callable[[int], bytes]]


class EpisodeReader:
    """One episode, or any rosbag2 bag, for reading.

    Args:
        path: its folder.
        embodiment: whose spelling of the topics counts, in place of the bag's own embodiment.

    Raises:
        BagError: not a bag, or its metadata is broken. Damaged message files show in `messages`.
    """

    reading = ''  # see `source.Episode`

    def __init__(self, path: Path | str, embodiment: Embodiment | None = None) -> None:
        self.path = Path(path)
        self.info = read_info(self.path, embodiment)
        self._spelling = topic_spelling(embodiment or self.info.embodiment)

    def messages(
        self, topics: Iterable[str] | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, log time in ns, CDR bytes) in log-time order, without loading the bag.

        Args:
            topics: only these; all by default. A topic that is not in the bag gives nothing.

        Raises:
            BagError: a file is missing, truncated or damaged; the message names it.
        """
        return self._stream(topics, None)

    def heads(self, topics: Iterable[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """The same messages; images may end after their stamp.

        Raises:
            BagError: see `messages`.
        """
        return self._stream(
            topics, lambda topic, kind: HEAD_BYTES if kind in wire.IMAGE_DECODERS else WHOLE
        )

    def some(self, numbers: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, number, CDR bytes) of some messages, in log-time order.

        Args:
            numbers: topic -> which of its messages, counted from 0 in that order.

        Raises:
            BagError: see `messages`.
        """
        last = dict.fromkeys(numbers, -1)

        def most_of(topic: str, kind: str) -> int:
            last[topic] += 1
            return WHOLE if last[topic] in numbers[topic] else 0

        for topic, _, _, raw in self._stream(numbers, most_of):
            yield topic, last[topic], raw

    def _stream(
        self, topics: Iterable[str] | None, most_of: Callable[[str, str], int] | None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Messages; of each as many bytes as `most_of` its topic and type says, with 0 none.

        Where the storage allows it, what nobody wants is not read. Without `most_of` all is.
        """
        wanted = None if topics is None else {topic.lstrip('/') for topic in topics}
        count = 0
        try:
            for source in self._sources():
                with _PartReader(source) as reader:
                    chosen = [
                        c
                        for c in reader.connections
                        if wanted is None or c.topic.lstrip('/') in wanted
                    ]
                    if not chosen:
                        continue
                    names = {c.id: spell(c.topic, self._spelling) for c in chosen}
                    found = reader.read(chosen) if most_of is None else reader.unread(chosen)
                    for connection, ts_ns, read in found:
                        count += 1
                        topic, msgtype = names[connection.id], connection.msgtype
                        most = WHOLE if most_of is None else most_of(topic, msgtype)
                        if most:
                            yield topic, msgtype, ts_ns, read(most)
        except Exception as error:  # damaged bytes surface as nearly any exception; re-raised
            reason = str(error) or type(error).__name__
            raise BagError(f'{self.path} cannot be read, it is damaged: {reason}') from error
        counts = self.info.message_counts
        promised = sum(n for t, n in counts.items() if wanted is None or t.lstrip('/') in wanted)
        if count != promised:
            raise BagError(f'{self.path} is damaged: {count} of {promised} messages are there')

    def files(self) -> list[Path]:
        """The files in its folder."""
        return [Path(entry.path) for entry in os.scandir(self.path) if entry.is_file()]

    def _sources(self) -> list[Path]:
        # the files themselves where they can be read alone: rosbags parses a folder's
        # metadata.yaml in pure Python, which takes longer than reading a short episode
        if self.info.files_compressed:
            return [self.path]
        return [self.path / name for name in self.info.files]


class _PartReader(Reader):
    """rosbags' reader, which can leave messages in the file as well."""

    STORAGE_PLUGINS = {**Reader.STORAGE_PLUGINS, '.mcap': PlacedMcap}

    def read(self, connections: Collection[Connection]) -> Iterator[_Unread]:
        """What `unread` gives, of messages that have been read all the same."""
        for connection, ts_ns, raw in self.messages(connections):
            yield connection, ts_ns, lambda most, raw=raw: raw

    def unread(self, connections: Collection[Connection]) -> Iterator[_Unread]:
        """(connection, log time in ns, how to read its first n bytes), in the order of time."""
        storage = self.storage
        if not (isinstance(storage, PlacedMcap) and storage.is_plain):
            yield from self.read(connections)
            return
        for place in storage.places(connections):
            yield place.connection, place.log_ns, partial(storage.read, place)
