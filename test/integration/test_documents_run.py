"""docs/teach.md, run with fewer episodes and steps: record, look, train, calibrate."""

from __future__ import annotations

import subprocess
import sys

from document_commands import commands, ROOT
import pytest

FEWER = {
    'vla_alignment_ros.sim.record': ['--episodes', '3', '--quiet'],
    'vla_alignment_ros.cli.vla_train': ['--optimizer.steps', '2', '--threads', '1'],
}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_page_on_teaching_leads_from_nothing_to_a_checkpoint_that_is_judged(tmp_path):
    (tmp_path / 'config').symlink_to(ROOT / 'config')  # "in the repository's folder"
    run = []
    for words in commands(ROOT / 'docs' / 'teach.md'):
        if words[0].startswith('vla_') and words[0] != 'vla_demo':
            module, given = f'vla_alignment_ros.cli.{words[0]}', words[1:]
        elif words[0] == 'python':
            module, given = words[2], words[3:]
        else:
            continue  # needs a robot
        command = [sys.executable, '-m', module, *given, *FEWER.get(module, [])]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        said = f'{words}: {done.stdout}\n{done.stderr}'
        if words[0] == 'vla_evaluate':  # two steps have taught nothing, and it is told so
            assert done.returncode == 2, said
            assert 'does not tell right from wrong' in done.stderr, said
        else:
            assert done.returncode == 0, said
        run.append(module.rpartition('.')[2])
    assert run == ['record', 'record', 'vla_bag', 'vla_train', 'vla_evaluate']
    assert (tmp_path / 'runs' / 'mine' / 'checkpoint' / 'model.safetensors').is_file()
