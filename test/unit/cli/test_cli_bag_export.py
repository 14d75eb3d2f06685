import json

from lerobot_folders import foreign_embodiment, KEYS, write_foreign
import pytest
import yaml

from vla_alignment_ros.cli.vla_bag import main
from vla_alignment_ros.data.bag import EpisodeReader, find_episodes
from vla_alignment_ros.data.source import find_sources


@pytest.fixture
def foreign_robot(tmp_path):
    """The file of a robot that a folder of others fits."""
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump(foreign_embodiment().to_dict()))
    return str(file)


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob('*') if p.is_file())


def test_export_and_import_bring_the_episodes_back(recorder, tmp_path, capsys):
    recorder.record('first', ticks=7, success=True)
    recorder.record('second', ticks=5, success=None)
    out, bags = tmp_path / 'set', tmp_path / 'bags'
    assert main(['export', str(recorder.root), '--to', 'lerobot', '--out', str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == (
        f'{out}: 2 episodes of 2 bags, 12 frames at 10 Hz'
    )
    assert main(['import', str(out), '--out', str(bags)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f'{bags}: 2 bags'
    assert [p.name for p in find_episodes(bags)] == ['first', 'second']
    assert [EpisodeReader(p).info.success for p in find_episodes(bags)] == [True, None]
    assert main(['import', f'lerobot:{out}', '--out', str(tmp_path / 'sqlite'), '--storage',
                 'sqlite3', '--compression', 'zstd']) == 0  # fmt: skip
    assert len(list((tmp_path / 'sqlite').rglob('*.db3'))) == 2


def test_export_leaves_out_what_failed_where_it_is_asked_to(recorder, tmp_path, capsys):
    recorder.record('good')
    recorder.record('bad', success=False)
    recorder.record('torn')
    (recorder.root / 'torn' / 'metadata.yaml').write_text('{')
    out = str(tmp_path / 'set')
    arguments = ['export', str(recorder.root), '--out', out]
    assert main([*arguments, '--only-successful']) == 2
    assert 'torn/metadata.yaml is damaged' in capsys.readouterr().err
    assert main([*arguments, '--only-successful', '--skip-bad', '--crf', '20']) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith('left out: ') and 'torn' in shown[0]
    assert shown[-1].endswith('1 episodes of 1 bags, 6 frames at 10 Hz')
    assert [e.info.name for e in find_sources([f'lerobot:{out}'])[0]] == ['good']
    info = json.loads((tmp_path / 'set/meta/info.json').read_text())
    assert info['features']['observation.images.front']['info']['video.crf'] == 20
    recorder.root.joinpath('good').rename(tmp_path / 'away')
    assert main([*arguments, '--only-successful', '--skip-bad']) == 2
    assert 'every episode is marked as failed' in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_2(recorder, tmp_path, capsys):
    recorder.record()
    (tmp_path / 'set').mkdir()
    assert main(['export', str(recorder.root), '--out', str(tmp_path / 'set')]) == 2
    assert main(['export', str(tmp_path / 'absent'), '--out', str(tmp_path / 'x')]) == 2
    assert main(['import', str(recorder.root), '--out', str(tmp_path / 'x')]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert 'set exists already' in errors[0]
    assert 'no folder' in errors[1]
    assert 'info.json is missing: this is not a whole LeRobot folder' in errors[2]
    assert len(errors) == 3
    assert not (tmp_path / 'x').exists()


def test_import_takes_a_robot_and_keys_for_folders_of_others(tmp_path, capsys, foreign_robot):
    write_foreign(tmp_path / 'set')
    keys = tmp_path / 'keys.yaml'
    keys.write_text(yaml.safe_dump(KEYS))
    arguments = ['import', str(tmp_path / 'set'), '--out', str(tmp_path / 'bags')]
    assert main(arguments) == 2
    assert '--embodiment FILE' in capsys.readouterr().err
    assert main([*arguments, '--embodiment', foreign_robot]) == 2
    assert '--lerobot-keys' in capsys.readouterr().err
    assert main([*arguments, '--embodiment', foreign_robot, '--lerobot-keys', str(keys)]) == 0
    assert [p.name for p in find_episodes(tmp_path / 'bags')] == [
        f'episode_{i:06d}' for i in range(3)
    ]
    written = files(tmp_path / 'bags')
    assert main([*arguments, '--embodiment', foreign_robot, '--lerobot-keys', str(keys)]) == 2
    assert 'episode_000000 exists already' in capsys.readouterr().err
    assert files(tmp_path / 'bags') == written
