"""Whatever names and sentences say, nothing is written outside the folder, and no shell runs."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
import sys

from hostile_texts import hostile_texts, HUGE_EVERY
import numpy as np
import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter, find_episodes
from vla_alignment_ros.data.recorder import EpisodeRecorder
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import BagError

FEW, ALL = HUGE_EVERY, 10_000
PER_BAG = 100
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.link', 'os.symlink', 'os.chmod'}
PROGRAMS = ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'pty.spawn')


def _watch(root: Path) -> list[str]:
    """Everything that this process does outside of a folder from now on, by Python's audit."""
    found: list[str] = []
    inside = f'{root}{os.sep}'

    def outside(path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False  # a descriptor that was opened before
        full = os.path.realpath(os.fsdecode(path))
        return full != str(root) and not full.startswith(inside)

    def hook(event: str, arguments: tuple) -> None:
        if event == 'open':
            path, mode, flags = arguments
            if flags & WRITES and outside(path):
                found.append(f'open {path!r} {mode}')
        elif event in CHANGES:
            count = 2 if event in ('os.rename', 'os.link', 'os.symlink') else 1
            descriptors = [a for a in arguments[count:] if isinstance(a, int) and a >= 0]
            # beneath a descriptor (shutil.rmtree) a name alone says nothing, and cannot leave
            bare = descriptors and all('/' not in os.fsdecode(p) for p in arguments[:count])
            if not bare and any(outside(path) for path in arguments[:count]):
                found.append(f'{event} {arguments!r}')
        elif event.startswith(PROGRAMS):
            found.append(f'{event} {arguments!r}')

    sys.addaudithook(hook)
    return found


def _names(root: Path, count: int) -> int:
    """Record an episode under every name, or begin to; how many were accepted."""
    embodiment, accepted = Embodiment.load('tabletop'), 0
    raw = wire.encode_string('go')
    for number, text in enumerate(hostile_texts(count)):
        try:
            with EpisodeWriter(root, embodiment, text) as writer:
                writer.write('instruction', 'std_msgs/msg/String', 1, raw)
                if number % PER_BAG == 0:
                    writer.finish(True)
                accepted += 1
        except BagError as error:
            if 'exists' not in str(error):  # a name that is taken
                raise
    return accepted


def _sentences(root: Path, count: int) -> int:
    """Say every sentence and write it as a note; how many were accepted."""
    recorder, accepted = EpisodeRecorder(root, Embodiment.load('tabletop')), 0
    image = np.zeros((4, 4, 3), np.uint8)
    texts = list(hostile_texts(count, seed=1))
    for begin in range(0, count, PER_BAG):
        recorder.start(0)
        for number, text in enumerate(texts[begin : begin + PER_BAG]):
            said = wire.encode_string(text.encode('utf-8', 'replace').decode())
            recorder.push('instruction', said)
            recorder.push('front/image_raw', wire.encode_image(image, 1 + number, 'front'))
            accepted += 1
        try:
            path = recorder.stop(True, {text[:200]: text}, 0)
        except BagError:  # the note; the episode goes on
            path = recorder.stop(True, {}, 0)
        reader = EpisodeReader(path)
        bag = list(reader.messages(['instruction']))
        assert len(bag) == len(texts[begin : begin + PER_BAG])
        assert wire.decode_string(bag[-1][-1]).startswith(reader.info.instruction)
    recorder.close()
    return accepted


def _in_child(root: str, count: int, answer: str) -> None:
    os.chdir(root)
    outside = _watch(Path(root))
    accepted = [work(Path(root, work.__name__), count) for work in (_names, _sentences)]
    told = list(outside)
    Path(answer).write_text(json.dumps({'accepted': accepted, 'outside': told}))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize('count', [FEW, pytest.param(ALL, marks=pytest.mark.long)])
def test_hostile_names_and_sentences_stay_inside_the_folder(tmp_path: Path, count):
    root, answer = tmp_path / 'a' / 'b' / 'root', tmp_path / 'answer.json'
    root.mkdir(parents=True)
    child = multiprocessing.get_context('spawn').Process(
        target=_in_child, args=(str(root.resolve()), count, str(answer))
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    told = json.loads(answer.read_text())
    names, sentences = told['accepted']
    print(
        f'{count} hostile names ({names} were free) and {sentences} sentences: '
        f'{len(told["outside"])} writes outside the folder or programs'
    )
    assert told['outside'] == []
    assert 0.9 * count < names <= count == sentences
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'answer.json'}
    assert [path.name for path in (tmp_path / 'a' / 'b').iterdir()] == ['root']
    assert {path.name for path in root.iterdir()} == {'_names', '_sentences'}
    for folder in root.iterdir():
        assert sorted(folder.iterdir()) == find_episodes(folder)  # nothing half done either
