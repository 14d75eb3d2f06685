"""What a run says of itself in a file, and what it leaves when the disk is full."""

from contextlib import contextmanager, ExitStack
from dataclasses import replace
import errno
import json
import os
import resource
import shutil
import signal

import pytest
from training_demos import smallest

from vla_alignment_ros.cli import vla_train
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.errors import CheckpointError
from vla_alignment_ros.policy.checkpoint import load_checkpoint, save_checkpoint
from vla_alignment_ros.training import progress
from vla_alignment_ros.training.progress import Progress, read_progress, write_progress
from vla_alignment_ros.training.trainer import Trainer


@contextmanager
def room_for(size):
    """As on a disk that is full: no file of this process grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def settings():
    return replace(smallest(steps=6), log_every=2, save_every=2)


def test_a_run_says_how_far_it_is_that_it_was_stopped_and_that_it_is_done(lasting_demos, tmp_path):
    run, seen = tmp_path / 'run', []

    def stop_at_four(now):
        seen.append(read_progress(run))
        if now['step'] == 4:
            signal.raise_signal(signal.SIGINT)

    Trainer(settings(), [lasting_demos], run).run(on_progress=stop_at_four)
    second = seen[-1]  # told before each entry: of the one before it
    assert (second.state, second.step, second.steps) == ('running', 2, 6)
    assert second.loss > 0 and second.eta_s == pytest.approx(4 / second.steps_per_s)
    last = read_progress(run)
    assert (last.state, last.step, last.steps) == ('stopped', 4, 6)
    Trainer(settings(), [lasting_demos], run).run(resume=True)
    last = read_progress(run)
    assert (last.state, last.step, last.eta_s) == ('finished', 6, 0.0)


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    write_progress(tmp_path, Progress(step=1))

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(progress.os, 'replace', full)
    with pytest.raises(OSError):
        write_progress(tmp_path, Progress(step=2))
    assert read_progress(tmp_path).step == 1
    assert [path.name for path in tmp_path.iterdir()] == [progress.PROGRESS_FILE]


@pytest.mark.parametrize('text', ['', '{"state": "run', '[]', '{"stepz": 3}', '\x00'])
def test_what_is_no_progress_is_none(tmp_path, text):
    assert read_progress(tmp_path) is None
    (tmp_path / progress.PROGRESS_FILE).write_text(text)
    assert read_progress(tmp_path) is None


def test_a_full_disk_ends_the_run_with_the_reason_and_what_was_saved_stays(
    lasting_demos, tmp_path
):
    trainer = Trainer(settings(), [lasting_demos], tmp_path / 'run')
    state = tmp_path / 'run' / 'state.safetensors'
    full = ExitStack()

    def fill(now):
        if now['step'] == 4:
            full.enter_context(room_for(20_000))

    with full, pytest.raises(CheckpointError, match='cannot save .*make room'):
        trainer.run(on_progress=fill)
    assert read_progress(tmp_path / 'run').state == 'failed'
    assert sorted(path.name for path in state.parent.iterdir()) == [
        'progress.json', 'state.safetensors', 'tensorboard'
    ]  # fmt: skip
    resumed = Trainer(settings(), [lasting_demos], tmp_path / 'run')
    assert resumed.run(resume=True) is not None


def test_the_command_leaves_the_reason_of_its_failure_in_the_run(
    lasting_demos, tmp_path, capsys
):
    run = tmp_path / 'run'
    run.mkdir()
    write_progress(run, Progress(step=3, steps=9))
    arguments = ['--data', str(tmp_path / 'nothing'), '--out', str(run), '--threads', '1']
    assert vla_train.main(arguments) == 2
    last = read_progress(run)
    assert (last.state, last.step) == ('failed', 3)
    assert 'no folder' in last.error
    file = tmp_path / 'config.json'
    file.write_text(json.dumps(settings().to_dict()))
    arguments = ['--data', str(lasting_demos), '--out', str(run), '--config', str(file)]
    load_dataset([lasting_demos], horizon=4, progress=False)  # they are in the cache by then
    with room_for(20_000):
        assert vla_train.main(arguments) == 2
    assert os.strerror(errno.EFBIG) in capsys.readouterr().err
    assert 'make room' in read_progress(run).error


def test_a_checkpoint_that_does_not_fit_the_disk_leaves_the_one_before(trained, tmp_path):
    folder = tmp_path / 'checkpoint'
    shutil.copytree(trained, folder)
    before = (folder / 'config.json').read_bytes()
    with room_for(20_000), pytest.raises(CheckpointError, match='cannot write'):
        save_checkpoint(load_checkpoint(folder), folder)
    assert (folder / 'config.json').read_bytes() == before
    load_checkpoint(folder)
