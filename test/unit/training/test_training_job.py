"""Jobs as processes: begun, watched, stopped, judged; what goes wrong is said, nothing stays."""

from contextlib import suppress
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading

import pytest
from recordings import make_embodiment
from training_demos import smallest
import training_stand_in
from training_stand_in import words

from vla_alignment_ros.errors import BagError, ConfigError
from vla_alignment_ros.training import job
from vla_alignment_ros.training.job import Demands, JobSupervisor, Means
from vla_alignment_ros.training.job_status import JobStatus
from vla_alignment_ros.training.progress import FAILED, Progress, write_progress
from vla_alignment_ros.training.runs import new_run, newest_run, Task

PATIENCE_S = 120.0  # machines are busy, and a job is four processes


@pytest.fixture
def data(tmp_path):
    """A folder with what looks like two episodes: nobody opens them here."""
    for name in ('a', 'b'):
        (tmp_path / 'demos' / name).mkdir(parents=True)
        (tmp_path / 'demos' / name / 'metadata.yaml').write_text('')
    return tmp_path / 'demos'


@pytest.fixture
def make_run(tmp_path, data):
    return lambda **changes: new_run(
        tmp_path / 'runs', Task(**{'data': str(data), 'config': 'tabletop'} | changes)
    )


def until(condition, who, patience_s=PATIENCE_S):
    pause = threading.Event()  # never set: processes and files tell nobody
    for _ in range(int(patience_s * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(getattr(who, 'status', who))


class Watched(JobSupervisor):
    """Remembers what it said."""

    def __init__(self, root, judge):
        self.said = []
        super().__init__(root, self.said.append, judge)

    def until(self, condition):
        until(lambda: condition(self.status), self)


@pytest.fixture
def watched(tmp_path):
    made = []

    def make(judge=None):
        made.append(Watched(tmp_path / 'runs', judge or words('judge')))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.close(0.0)


def means(mode, **changes):
    return Means(**{'launcher': words(mode), 'nice': 0, 'patience_s': PATIENCE_S} | changes)


def started(supervisor, run, mode, **changes):
    """A job under way; the process id of its training."""
    supervisor.train(run, means(mode, **changes), Demands('tabletop'))
    supervisor.until(lambda now: (run.folder / f'{mode}.pid').is_file() or not now.active)
    return int((run.folder / f'{mode}.pid').read_text())


def gone(*pids):
    return not any(Path(f'/proc/{pid}').exists() for pid in pids)


def cmdline(pid):
    with suppress(OSError):
        return Path(f'/proc/{pid}/cmdline').read_bytes().decode(errors='replace')
    return ''


def test_a_job_is_trained_judged_and_told_step_by_step(make_run, watched):
    supervisor, run = watched(), make_run(steps=7, seed=3, correction_weight=2.5)
    demands = Demands('tabletop', 0.25, lambda: 'old/checkpoint')
    supervisor.train(run, means('done'), demands)
    assert supervisor.wait(PATIENCE_S)
    states = [status.state for status in supervisor.said]
    assert list(dict.fromkeys(states)) == ['running', 'validating', 'succeeded']
    status = supervisor.status
    assert (status.progress.step, status.reason) == (9, 'good')
    assert status.checkpoint == run.folder / 'checkpoint'
    said = status.key_values()
    assert said['compared_with'] == 'old/checkpoint' and said['held-out action_l1'] == '0.25'
    assert said['run_folder'] == str(run.folder) and said['log_file'] == str(run.log)
    given = (run.folder / 'arguments').read_text().split('\n')
    assert given[:2] == ['-m', 'vla_alignment_ros.cli.vla_train']
    told = dict(zip(given[2:], given[3:]))
    assert told['--seed'] == '3' and told['--optimizer.steps'] == '7'
    assert told['--data.correction-weight'] == '2.5' and '--resume' in given
    assert Path(told['--data']).read_text().split() == [
        str(Path(run.task.data) / name) for name in ('a', 'b')
    ]


def test_progress_is_told_while_it_runs(make_run, watched):
    supervisor, run = watched(), make_run()
    started(supervisor, run, 'wait')
    supervisor.until(lambda now: now.progress.step == 4)
    said = supervisor.said[-1].key_values()
    assert {k: said[k] for k in ('state', 'step', 'steps', 'loss', 'steps_per_s', 'eta_s')} == {
        'state': 'running', 'step': '4', 'steps': '9', 'loss': '0.5', 'steps_per_s': '2',
        'eta_s': '2',
    }  # fmt: skip


def test_a_second_job_is_refused_with_what_runs(make_run, watched):
    supervisor, run = watched(), make_run()
    started(supervisor, run, 'wait')
    with pytest.raises(ConfigError, match=f'one training at a time, and {run.name} running, step'):
        supervisor.train(make_run(), means('done'), Demands('tabletop'))


def test_a_cancelled_job_saves_first_and_can_be_gone_on_with(tmp_path, make_run, watched):
    supervisor, run = watched(), make_run(seed=7)
    pid = started(supervisor, run, 'wait')
    supervisor.cancel()
    assert supervisor.wait(PATIENCE_S)
    assert gone(pid)
    assert supervisor.status.state == 'cancelled'
    assert 'stopped at step 4; what was saved' in supervisor.status.reason
    with pytest.raises(ConfigError, match='no training is running'):
        supervisor.cancel()
    again = newest_run(tmp_path / 'runs')
    assert again == run and again.unfinished()
    supervisor.train(again, means('done'), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.state == 'succeeded'
    assert not again.unfinished()


def test_a_job_that_does_not_listen_is_killed_with_its_workers(make_run, watched):
    supervisor, run = watched(), make_run()
    pid = started(supervisor, run, 'workers')
    supervisor.until(lambda now: (run.folder / 'deaf.pid').is_file())
    worker = int((run.folder / 'worker.pid').read_text())
    supervisor.cancel(patience_s=0.3)
    assert supervisor.wait(PATIENCE_S)
    assert gone(pid, worker)
    assert supervisor.status.state == 'cancelled'


def test_a_deaf_job_says_that_it_was_killed(make_run, watched):
    supervisor, run = watched(), make_run()
    pid = started(supervisor, run, 'deaf', patience_s=0.1)
    supervisor.cancel()
    assert supervisor.wait(PATIENCE_S)
    assert gone(pid) and 'killed because it did not end in time' in supervisor.status.reason


def test_closing_ends_the_job_in_time(make_run, watched):
    supervisor, run = watched(), make_run()
    pid = started(supervisor, run, 'deaf')
    supervisor.close(0.1)
    assert gone(pid)
    assert not supervisor.said[-1].active  # the last word came before it was closed


@pytest.mark.parametrize(
    ('mode', 'reason'),
    [('dies', r'was killed \(SIGKILL\)'), ('fails', r'code 1; .*Error: no such \?\[31mluck')],
)
def test_a_crash_is_told_with_how_it_ended(make_run, watched, mode, reason):
    supervisor, run = watched(), make_run()
    supervisor.train(run, means(mode), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.state == 'failed'
    assert supervisor.status.checkpoint is None
    assert re.search(reason, supervisor.status.reason)


def test_a_killed_training_is_seen_and_another_can_follow(make_run, watched):
    supervisor = watched()
    os.kill(started(supervisor, make_run(), 'wait'), signal.SIGKILL)
    assert supervisor.wait(PATIENCE_S)
    assert (supervisor.status.state, supervisor.status.progress.step) == ('failed', 4)
    supervisor.train(make_run(), means('done'), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.state == 'succeeded'


def test_a_checkpoint_that_is_refused_is_no_success(make_run, watched):
    supervisor, run = watched(words('judge:worse than the old one')), make_run()
    supervisor.train(run, means('done'), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.state == 'failed'
    assert supervisor.status.reason == 'worse than the old one'
    assert supervisor.status.checkpoint is None


def test_a_judge_that_fails_accepts_nothing(make_run, watched):
    supervisor, run = watched(words('fails')), make_run()
    supervisor.train(run, means('done'), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.state == 'failed'
    assert 'could not be judged: ended with code 1' in supervisor.status.reason


def test_what_serves_cannot_be_asked_for_is_said(make_run, watched):
    def silent():
        raise ConfigError('policy_node does not answer')

    supervisor, run = watched(), make_run()
    supervisor.train(run, means('done'), Demands('tabletop', serving=silent))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.reason == 'policy_node does not answer'
    supervisor.validate(run, means('done'), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert supervisor.status.state == 'succeeded'
    assert supervisor.status.progress.step == 9


def test_a_job_outlives_no_killed_owner_and_nobody_meddles_until_it_has_ended(
    tmp_path, make_run, watched
):
    run = make_run()
    code = f"""
import sys
sys.path.insert(0, {str(Path(training_stand_in.__file__).parent)!r})
from training_stand_in import words
from vla_alignment_ros.training.job import *
from vla_alignment_ros.training.runs import newest_run
from pathlib import Path
root = Path({str(tmp_path / 'runs')!r})
supervisor = JobSupervisor(root, judge=words('judge'))
supervisor.train(newest_run(root), Means(words('deaf'), nice=0), Demands('tabletop'))
supervisor.wait()
"""
    file = run.folder / 'deaf.pid'
    with subprocess.Popen([sys.executable, '-c', code]) as owner:
        until(file.is_file, owner)
        pid = int(file.read_text())
        owner.kill()
    after = watched()
    assert (after.status.state, after.status.run) == ('cancelled', run)
    assert after.status.reason == 'cut off'
    with pytest.raises(ConfigError, match='its training still saves: wait'):
        after.train(run, means('done'), Demands('tabletop'))
    assert not after.status.active and not gone(pid)
    os.kill(pid, signal.SIGKILL)  # instead of waiting for the guard to lose its patience

    def begun():  # the guard ends just behind it
        with suppress(ConfigError):
            after.train(run, means('done'), Demands('tabletop'))
        return after.status.active

    until(begun, after)
    assert after.wait(PATIENCE_S) and after.status.state == 'succeeded'


# -- what a node finds when it starts -----------------------------------------------------------


def test_what_was_trained_and_judged_before_can_still_be_offered(make_run, watched):
    before, run = watched(), make_run()
    before.train(run, means('done'), Demands('tabletop', serving=lambda: 'old'))
    assert before.wait(PATIENCE_S)
    assert watched().status == before.status
    assert watched().status.checkpoint == run.folder / 'checkpoint'


def test_what_was_cut_off_or_failed_before_is_told(make_run, watched):
    assert str(watched().status) == 'nothing was trained yet'
    run = make_run()
    assert watched().status.reason == 'cut off'
    write_progress(run.folder, Progress(step=3, steps=9))
    (run.folder / 'state.safetensors').write_bytes(b'')
    assert str(watched().status) == (
        f'{run.name} cancelled, step 3 of 9: cut off; what was saved can be gone on with'
    )
    write_progress(run.folder, Progress(FAILED, 3, 9, error='no room'))
    assert watched().status.state == 'failed' and watched().status.reason == 'no room'
    (run.folder / 'verdict.json').write_text('{')
    assert 'no verdict' in watched().status.reason
    (run.folder / 'job.json').write_text('{')
    assert 'is damaged' in str(watched().status)


# -- what is refused before anything starts -----------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'error', 'match'),
    [
        ({'config': 'no_such'}, ConfigError, 'no training config named .*tabletop'),
        ({'config': '../etc/passwd'}, ConfigError, 'neither a name nor a YAML file'),
        ({'config': 'nowhere/x.yaml'}, ConfigError, 'cannot read'),
        ({'data': 'nowhere'}, BagError, 'no folder nowhere'),
    ],
)
def test_a_task_that_makes_no_sense_is_refused_and_leaves_no_run(
    tmp_path, make_run, changes, error, match
):
    with pytest.raises(error, match=match):
        make_run(**changes)
    assert not (tmp_path / 'runs').exists()


def test_a_folder_without_episodes_and_one_that_cannot_be_written_are_refused(tmp_path, data):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match='record some first'):
        new_run(tmp_path / 'runs', Task(str(tmp_path / 'empty'), 'tabletop'))
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='cannot begin a run'):
        new_run(tmp_path / 'file' / 'runs', Task(str(data), 'tabletop'))


def test_runs_are_numbered_and_the_newest_is_found_as_it_was_asked_for(tmp_path, make_run):
    assert newest_run(tmp_path / 'runs') is None
    first, second = make_run(), make_run(seed=5, from_checkpoint='x')
    assert [run.name[:10] for run in (first, second)] == ['run_000000', 'run_000001']
    assert newest_run(tmp_path / 'runs') == second
    assert second.arguments()[-2:] == ['--from-checkpoint', 'x']
    assert second.steps == 2400  # as config/train/tabletop.yaml says
    (second.folder / 'job.json').write_text(json.dumps({'task': {'data': 1, 'what': 2}}))
    with pytest.raises(ConfigError, match='begin a new run|allowed'):
        newest_run(tmp_path / 'runs')


@pytest.mark.parametrize('device', ['gpu', 'cuda:', 'cuda:x', 'cpu; rm'])
def test_a_device_or_launcher_that_is_none_is_refused(device):
    with pytest.raises(ConfigError, match='none of auto, cpu'):
        Means(device=device)
    with pytest.raises(ConfigError, match="'no_such_torchrun' is not installed"):
        Means(launcher=('no_such_torchrun', '--nproc-per-node=2'))


def test_a_launcher_is_found_beside_this_python_and_devices_are_chosen_by_variables(monkeypatch):
    monkeypatch.setenv('PATH', os.defpath)
    assert Means(launcher=('torchrun', '-x')).command() == [
        str(Path(sys.executable).parent / 'torchrun'), '-x'
    ]  # fmt: skip
    assert Means(device='cuda:1,2').environment()['CUDA_VISIBLE_DEVICES'] == '1,2'
    assert Means(device='cpu').environment()['CUDA_VISIBLE_DEVICES'] == ''
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '7')
    assert Means(device='auto').environment()['CUDA_VISIBLE_DEVICES'] == '7'


def test_a_full_disk_is_part_of_the_reason(make_run, watched, monkeypatch):
    monkeypatch.setattr(job, 'LITTLE_BYTES', 1 << 80)
    supervisor, run = watched(), make_run()
    supervisor.train(run, means('fails'), Demands('tabletop'))
    assert supervisor.wait(PATIENCE_S)
    assert 'is full: make room' in supervisor.status.reason


def test_what_a_status_says_is_text_whatever_it_knows():
    assert all(isinstance(value, str) for value in JobStatus().key_values().values())
    assert JobStatus(progress=Progress(step=3)).key_values()['eta_s'] == ''


# -- in earnest ---------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_two_processes_train_together_stop_together_and_are_judged(
    tmp_path, lasting_demos, watched, monkeypatch
):
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'lo')
    settings, robot = tmp_path / 'small.yaml', tmp_path / 'robot.yaml'
    settings.write_text(json.dumps(smallest().to_dict()))
    robot.write_text(json.dumps(make_embodiment().to_dict()))
    task = Task(str(lasting_demos), str(settings), steps=60, threads=1)
    run, supervisor = new_run(tmp_path / 'runs', task), watched(job.JUDGE)
    launcher = ('torchrun', '--standalone', '--nproc-per-node=2')
    two = Means(launcher, device='cpu', nice=0), Demands(str(robot))
    supervisor.train(run, *two)
    until(lambda: supervisor.status.progress.step > 1 or supervisor.wait(0), supervisor, 1000.0)
    assert supervisor.status.active, run.log.read_text()
    workers = [pid for pid in map(int, filter(str.isdigit, os.listdir('/proc')))
               if str(run.folder) in cmdline(pid)]  # fmt: skip
    assert len(workers) == 4  # guard, launcher, and two that train
    supervisor.cancel()
    assert supervisor.wait(PATIENCE_S) and gone(*workers)
    assert supervisor.status.state == 'cancelled' and run.unfinished(), run.log.read_text()
    stopped_at = supervisor.status.progress.step
    assert 1 < stopped_at < 60
    supervisor.train(run, *two)
    assert supervisor.wait(1000.0)
    assert supervisor.status.state == 'succeeded', run.log.read_text()
    config = json.loads((run.folder / 'checkpoint' / 'config.json').read_text())
    assert config['training']['steps'] == 60
    assert f'stopped at step {stopped_at}' in run.log.read_text()
