"""`vla_bag play-sheet`: where the picture is."""

import os

from acted_recordings import Actor

from vla_alignment_ros.cli.vla_bag import main


def test_play_sheet_is_a_picture_beside_the_episode(tmp_path, capsys):
    demos = tmp_path / 'demos'
    Actor(demos).record('idle', ticks=8), Actor(demos).record('busy.2', ticks=8)
    assert main(['play-sheet', str(demos / 'busy.2')]) == 0
    assert capsys.readouterr().out.strip() == f'sheet: {demos}/busy.2.png'
    assert (demos / 'busy.2.png').read_bytes().startswith(b'\x89PNG')
    assert sorted(os.listdir(demos)) == ['busy.2', 'busy.2.png', 'idle']
    for arguments in ([str(demos)], [str(demos / 'idle'), '--moments', '0'], [str(tmp_path)]):
        assert main(['play-sheet', *arguments]) == 2
