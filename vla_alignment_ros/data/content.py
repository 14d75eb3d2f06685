"""What a recording holds, as one number: equal for copies, however they are stored or labelled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.embodiment import Embodiment


class ContentDigest:
    """Takes the messages of a bag one by one; see `content_digest`."""

    def __init__(self, embodiment: Embodiment | None) -> None:
        self._label = embodiment.instruction_topic if embodiment is not None else 'instruction'
        self._topics: dict[str, Any] = {}

    def add(self, topic: str, msgtype: str, raw: bytes) -> None:
        """Take one message."""
        if topic == self._label:
            return
        if topic not in self._topics:
            self._topics[topic] = hashlib.blake2b(msgtype.encode(), digest_size=16)
        of_topic = self._topics[topic]
        of_topic.update(len(raw).to_bytes(8, 'little'))
        of_topic.update(raw)

    def hexdigest(self) -> str:
        """Of all that was taken."""
        whole = hashlib.blake2b(digest_size=16)
        for topic in sorted(self._topics):
            whole.update(topic.encode() + b'\0' + self._topics[topic].digest())
        return whole.hexdigest()


def content_digest(path: Path | str) -> str:
    """Digest of the messages of every topic, in their order.

    The instruction is a label and does not count, nor do log times, the order between topics,
    the kind of storage and the notes.

    Raises:
        BagError: the bag is damaged.
    """
    reader = EpisodeReader(path)
    digest = ContentDigest(reader.info.embodiment)
    for topic, msgtype, _, raw in reader.messages():
        digest.add(topic, msgtype, raw)
    return digest.hexdigest()
