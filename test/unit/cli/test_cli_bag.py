import os

import pytest

from vla_alignment_ros import wire
from vla_alignment_ros.cli.vla_bag import main
from vla_alignment_ros.data.bag import EpisodeWriter


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')


def lines(capsys):
    return [' '.join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_info_shows_episodes_topics_and_their_sum(recorder, capsys):
    recorder.record('first', ticks=11, instruction='Pick [red] cube.')
    recorder.record('second', ticks=21, success=False)
    recorder.record('third', success=None, extra={'seed': '1'})
    assert main(['info', str(recorder.root)]) == 0
    shown = lines(capsys)
    assert any(line.startswith('first pick Pick [red] cube. yes 1.0 56') for line in shown)
    assert any(line.startswith('second pick Pick up the red cube. no 2.0 106') for line in shown)
    assert any(line.startswith('third Pick up the red cube. ? 0.5 31') for line in shown)
    assert 'front/image_raw sensor_msgs/msg/Image 38 10.0 3/3' in shown
    assert 'instruction std_msgs/msg/String 3 3/3' in shown
    assert shown[-1].startswith('3 episodes, 3.5 s')
    assert shown[-1].endswith(
        '2 instructions; 1 succeeded, 1 failed, 1 not judged; embodiment tiny'
    )


def test_info_takes_single_episodes_and_names_each_once(recorder, capsys):
    path, _, _ = recorder.record('one')
    recorder.record('two')
    assert main(['info', str(path), str(path)]) == 0
    shown = lines(capsys)
    assert sum(line.startswith('one ') for line in shown) == 1
    assert shown[-1].startswith('1 episodes')


def test_a_damaged_episode_is_named_and_the_others_are_shown(recorder, capsys):
    recorder.record('good')
    path, _, _ = recorder.record('bad')
    (path / 'metadata.yaml').write_text('{')
    assert main(['info', str(recorder.root)]) == 1
    shown = lines(capsys)
    assert any(line.startswith('good') for line in shown)
    assert any('bad/metadata.yaml is damaged' in line for line in shown)


def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(tmp_path, capsys):
    assert main(['info', str(tmp_path)]) == 2
    assert main(['info', str(tmp_path / 'absent')]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert 'no episode in' in errors[0]
    assert 'no folder' in errors[1]
    assert main(['info']) == 2


def test_an_unfinished_recording_is_not_shown(recorder, embodiment, capsys):
    recorder.record('done')
    with EpisodeWriter(recorder.root, embodiment, 'running') as writer:
        writer.write('instruction', 'std_msgs/msg/String', 1, wire.encode_string('x'))
        assert main(['info', str(recorder.root)]) == 0
        assert '.running.partial' in os.listdir(recorder.root)
    assert not any('running' in line for line in lines(capsys))
