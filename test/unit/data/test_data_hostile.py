"""Bags from somebody who means harm, and words that were said to do it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from recordings import make_embodiment, Recorder
import yaml

from vla_alignment_ros.cli import vla_bag
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.bag_format import METADATA
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.errors import BagError, DatasetError, EmbodimentError
from vla_alignment_ros.observation import MAX_INSTRUCTION_CHARS, ObservationAssembler

WORDS = {
    'zero': 'pick\0up',
    'terminal': '\x1b[31mred\x1b]0;title\x07\r',
    'right to left': '\u202egnp \u2066x',
    'lines': 'a\r\nb: c\n- d\x85\u2028e',
    'quotes': '", \'; $(touch x) `touch x` && {{7*7}} <script>',
    'path': '../../../../x',
    'no character': '\ufeff\uffff',
}


@pytest.fixture
def bag(recorder):
    path, _, _ = recorder.record('episode', ticks=3)
    return path


def spoil(bag, **custom):
    """Set notes of a bag to anything that YAML can say."""
    file = bag / METADATA
    data = yaml.safe_load(file.read_text())
    data['rosbag2_bagfile_information']['custom_data'].update(
        {f'vla.{key}': value for key, value in custom.items()}
    )
    file.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize('words', WORDS.values(), ids=WORDS.keys())
def test_whatever_is_said_is_a_label_and_nothing_else(recorder, tmp_path, capsys, words):
    path, _, _ = recorder.record('episode', 3, words, extra={'task': words, words: 'note'})
    info = EpisodeReader(path).info
    assert info.instruction == words and info.extra == {'task': words, words: 'note'}
    dataset = load_dataset([tmp_path], val_fraction=0.0, progress=False).train
    assert len(dataset) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.vla_cache', 'demos']
    assert [p.name for p in (tmp_path / 'demos').iterdir()] == ['episode']
    assert vla_bag.main(['info', str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(letter.isprintable() or letter == '\n' for letter in printed)


def test_megabytes_of_words_stay_in_their_message(recorder):
    words = 'red ' * 2_000_000
    path, _, _ = recorder.record('episode', 3, words)
    assert EpisodeReader(path).info.instruction == words[:MAX_INSTRUCTION_CHARS]
    assert (path / METADATA).stat().st_size < 50_000


@pytest.mark.parametrize(
    'name', ['../escaped', '/escaped', 'a/../../b', '..', '~', 'a\0b', '\u202e..', 'x' * 5000]
)
def test_a_name_never_leads_out_of_the_folder(tmp_path, name):
    root = tmp_path / 'demos'
    Recorder(root, make_embodiment()).record(name, ticks=3)
    assert [p.name for p in tmp_path.iterdir()] == ['demos']
    assert [p.parent for p in find_episodes(tmp_path)] == [root]


NESTED = ['[' * 50_000, '{a: ' * 50_000, '- ' * 50_000, 'a: ' + '[' * 50_000 + ']' * 50_000]
READ = """
import sys
from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.errors import BagError
for folder in sys.argv[1:]:
    try:
        EpisodeReader(folder)
    except BagError as error:
        print(error)
"""


def test_metadata_nested_without_end_does_not_end_the_process(tmp_path):
    folders = [tmp_path / str(i) for i in range(len(NESTED))]
    for folder, text in zip(folders, NESTED):
        folder.mkdir()
        (folder / METADATA).write_text(text)
    done = subprocess.run(
        [sys.executable, '-c', READ, *map(str, folders)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('nested more than') == len(folders)


def test_metadata_that_multiplies_itself_is_damaged(bag):
    levels = ['&a0 [' + ', '.join(['lol'] * 10) + ']']
    levels += [f'&a{i} [' + ', '.join([f'*a{i - 1}'] * 10) + ']' for i in range(1, 12)]
    file = bag / METADATA
    head, mark, tail = file.read_text().partition('  custom_data:\n')
    assert mark
    lines = ''.join(f'    vla.x{i}: {level}\n' for i, level in enumerate(levels))
    file.write_text(head + mark + lines + tail)
    with pytest.raises(BagError, match='must be texts'):
        EpisodeReader(bag)


def test_metadata_larger_than_any_bag_is_not_read(bag):
    with open(bag / METADATA, 'r+b') as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(BagError, match='larger than'):
        EpisodeReader(bag)


@pytest.mark.parametrize('version', ['²', '9' * 5000, '-1', '2', '', 'x', '١'])
def test_a_format_that_is_no_number_is_refused(bag, version):
    spoil(bag, format_version=version)
    with pytest.raises(BagError, match='has format'):
        EpisodeReader(bag)


@pytest.mark.parametrize(
    'text', ['[' * 200_000, '{"name": "x"}', '[]', 'null', '1'], ids=['deep', *'abcd']
)
def test_an_embodiment_that_is_none_is_damage(bag, text):
    spoil(bag, embodiment=text)
    with pytest.raises(BagError, match=METADATA):
        EpisodeReader(bag)


def test_files_are_only_looked_for_inside_the_bag(bag, tmp_path):
    secret = tmp_path / 'secret.mcap'
    storage = next(bag.glob('*.mcap'))
    secret.write_bytes(storage.read_bytes())
    storage.unlink()
    file = bag / METADATA
    for name in (str(secret), '../../secret.mcap', '..', '.', '/'):
        data = yaml.safe_load(file.read_text())
        data['rosbag2_bagfile_information']['relative_file_paths'] = [name]
        file.write_text(yaml.safe_dump(data))
        with pytest.raises(BagError, match='damaged'):
            list(EpisodeReader(bag).messages())


def test_a_bag_reads_no_robot_model_outside_the_allowed_folders(tmp_path, monkeypatch):
    secret = tmp_path / 'secret.urdf'
    secret.write_text('<robot name="hush"><link name="hush"/></robot>')
    (tmp_path / 'inside').mkdir()
    monkeypatch.chdir(tmp_path / 'inside')
    monkeypatch.delenv('VLA_RESOURCE_PATH', raising=False)
    embodiment = make_embodiment(urdf=str(secret), ee_link='hush', base_link='hush')
    root = tmp_path / 'demos'
    Recorder(root, embodiment).record('episode', ticks=3)
    with pytest.raises((DatasetError, EmbodimentError), match='VLA_RESOURCE_PATH') as caught:
        load_dataset([root], val_fraction=0.0, progress=False)
    assert 'hush' not in str(caught.value)
    found = EpisodeReader(root / 'episode').info.embodiment
    with pytest.raises(EmbodimentError, match='VLA_RESOURCE_PATH'):
        ObservationAssembler(found)
