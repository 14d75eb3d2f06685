"""The gate calibrated anew: what counts as right and wrong, what is written, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from recordings import make_embodiment, Recorder
import torch

from vla_alignment_ros import wire
from vla_alignment_ros.cli import vla_evaluate
from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.errors import CheckpointError, DatasetError
from vla_alignment_ros.policy.checkpoint import (
    Calibration,
    CONFIG,
    load_checkpoint,
    save_recalibrated,
    TOKENIZER,
    WEIGHTS,
)
from vla_alignment_ros.training.batches import BatchStream
from vla_alignment_ros.training.config import (
    AlignmentConfig,
    ArchitectureConfig,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from vla_alignment_ros.training.recalibration import recalibrate
from vla_alignment_ros.training.trainer import Trainer
from vla_alignment_ros.training.validation import GateScores, measure_gate

HUES = {'red': (220, 30, 30), 'blue': (30, 30, 220)}
TICKS = 16


class Painted(Recorder):
    """Sees nothing but one colour, in somewhat different light at every tick."""

    colour = 'red'

    def observation(self, ts_ns):
        raw = super().observation(ts_ns)
        for c in self.embodiment.cameras:
            noise = self.rng.integers(-25, 25, (c.height, c.width, 3))
            pixels = np.clip(np.array(HUES[self.colour]) + noise, 0, 255).astype(np.uint8)
            raw[c.topic] = wire.encode_image(pixels, ts_ns, c.name)
        return raw


def paint(root, colours, seed=0, embodiment=None, **notes):
    """One episode per colour; a note is a function of the colour."""
    for i, colour in enumerate(colours):
        recorder = Painted(root, embodiment or make_embodiment(), seed=seed + i)
        recorder.colour = colour
        extra = {'task': 'pick', **{name: note(colour) for name, note in notes.items()}}
        recorder.record(
            f'episode_{seed + i}', TICKS, f'pick up the {colour} cube', extra=extra
        )
    return root


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint that has learned to tell red from blue."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp('trained')
    config = TrainConfig(
        data=DataConfig(val_fraction=0.3, horizon=4),
        model=ArchitectureConfig(width=32, heads=2, language_layers=1, decoder_layers=1),
        alignment=AlignmentConfig(strategy='clip', weight=1.0),
        optimizer=OptimizerConfig(steps=60, batch=16, warmup_steps=2, ema=0.9),
        threads=1,
    )
    demos = paint(folder / 'demos', ['red', 'blue'] * 4)
    return Trainer(config, [demos], folder / 'run').run()


@pytest.fixture
def mine(tmp_path):
    """Episodes that the checkpoint was not trained on."""
    return paint(tmp_path / 'mine', ['red', 'blue', 'blue', 'red'], seed=100)


def files(folder):
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, TOKENIZER)}


def test_a_calibration_on_own_episodes_tells_right_from_wrong(trained, mine):
    checkpoint = load_checkpoint(trained)
    found = recalibrate(checkpoint, [mine], progress=False)
    assert (found.episodes, found.sentences) == (4, 2)
    assert len(found.scores.everywhere) == 4 * TICKS
    assert len(found.scores.matched) == 4 * TICKS // 4  # no keyframes: the first quarter
    assert 0 < len(found.scores.mismatched) < len(found.scores.matched)
    figures = found.scores.figures(found.after)
    assert figures['vl_auroc'] > 0.9 and figures['gate_false_go'] < 0.2
    assert 0 < found.after.hold <= found.after.go <= 0.5
    again = recalibrate(checkpoint, [mine], progress=False)
    assert again.after == found.after


def test_the_figures_count_what_the_thresholds_do():
    scores = GateScores(
        matched=np.array([2.0, 1.0, -1.0, 3.0]),
        mismatched=np.array([-2.0, 0.5]),
        everywhere=np.array([2.0, 1.0, -1.0, 3.0, -4.0]),
    )
    # slope 1, offset 0: a raw score of 0 is a probability of 0.5
    figures = scores.figures(Calibration(slope=1.0, offset=0.0, go=0.5, hold=0.1))
    assert figures['gate_refused'] == 1 / 4
    assert figures['gate_false_hold'] == 1 / 5
    assert figures['gate_false_go'] == 1 / 2
    assert figures['vl_auroc'] == 7 / 8
    nothing = np.zeros(0)
    assert GateScores(scores.matched, nothing, scores.everywhere).figures(Calibration()) == {}


@pytest.mark.parametrize('note', ['group', 'target'])
def test_what_is_noted_to_mean_the_same_is_never_a_wrong_sentence(trained, tmp_path, note):
    root = paint(tmp_path / 'same', ['red', 'blue'], **{note: lambda colour: 'a cube'})
    checkpoint = load_checkpoint(trained)
    dataset = load_dataset([root], val_fraction=0.0, progress=False).train
    stream = BatchStream(dataset, checkpoint.tokenizer, 2 * TICKS, seed=0)
    scores = measure_gate(checkpoint.model, stream, 0, torch.device('cpu'))
    assert len(scores.matched) and not len(scores.mismatched)
    with pytest.raises(DatasetError, match='all say the same|wrong sentences'):
        recalibrate(checkpoint, [root], progress=False)


def run(*arguments):
    return vla_evaluate.main([str(argument) for argument in arguments])


def test_the_copy_differs_in_its_calibration_alone(trained, mine, tmp_path, capsys):
    before, config = files(trained), json.loads((trained / CONFIG).read_text())
    out, figures = tmp_path / 'out', tmp_path / 'figures.json'
    given = ('--checkpoint', trained, '--calibrate', mine, '--out', out, '--json', figures)
    assert run(*given) == 0
    assert files(trained) == before and json.loads((trained / CONFIG).read_text()) == config
    assert files(out) == before
    copied = json.loads((out / CONFIG).read_text())
    note = copied['training'].pop('calibrated')
    written = copied.pop('calibration')
    assert written != config.pop('calibration') and copied == config
    assert note['episodes'] == 4 and note['after']['go'] == written['go']
    assert load_checkpoint(out).calibration == Calibration(**written)
    assert json.loads(figures.read_text())['after']['go'] == written['go']
    printed = capsys.readouterr().out
    for text in ('AUROC', 'refused', 'let through', '4 episodes, 2 sentences', str(out)):
        assert text in printed
    # a folder that is there is never overwritten
    assert run(*given) == 2
    assert 'is there already' in capsys.readouterr().err


def test_in_place_only_when_asked(trained, mine, tmp_path, capsys):
    own = save_recalibrated(trained, tmp_path / 'own', Calibration(2.0, 1.0, 0.4, 0.3), {})
    text, weights = (own / CONFIG).read_text(), files(own)
    assert run('--checkpoint', own, '--calibrate', mine) == 0
    assert 'nothing is written' in capsys.readouterr().out
    assert (own / CONFIG).read_text() == text
    assert run('--checkpoint', own, '--calibrate', mine, '--in-place') == 0
    assert load_checkpoint(own).calibration not in (Calibration(2.0, 1.0, 0.4, 0.3), Calibration())
    assert files(own) == weights
    assert sorted(p.name for p in own.parent.iterdir()) == ['mine', 'own']  # nothing left over


def test_a_copy_that_cannot_be_written_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('vla_alignment_ros.policy.checkpoint._write_config', full)
    with pytest.raises(CheckpointError, match='No space left'):
        save_recalibrated(trained, tmp_path / 'out', Calibration(), {})
    assert list(tmp_path.iterdir()) == []


def refused(capsys, *arguments):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    return error


def test_what_cannot_be_calibrated_on_is_named(trained, tmp_path, capsys):
    out = tmp_path / 'out'
    base = ('--checkpoint', trained, '--out', out, '--calibrate')
    (tmp_path / 'empty').mkdir()
    assert 'no episode in' in refused(capsys, *base, tmp_path / 'empty')
    alone = paint(tmp_path / 'alone', ['red', 'red'])
    assert "all say the same ('pick up the red cube')" in refused(capsys, *base, alone)
    other = make_embodiment(name='other', joint_states_topic='elsewhere')
    strange = paint(tmp_path / 'strange', ['red', 'blue'], embodiment=other)
    error = refused(capsys, *base, strange)
    assert "no message on topic 'joint_states', which embodiment 'tiny' needs" in error
    joints = make_embodiment(name='joints', joint_names=('c', 'd'))
    strange = paint(tmp_path / 'joints', ['red', 'blue'], embodiment=joints)
    assert 'joint' in refused(capsys, *base, strange)
    assert not out.exists()


def test_a_score_that_tells_nothing_leaves_the_checkpoint_alone(trained, tmp_path, capsys):
    # every scene with the other's sentence: what scores high is wrong
    root = tmp_path / 'crossed'
    for i, (seen, said) in enumerate([('red', 'blue'), ('blue', 'red')]):
        recorder = Painted(root, make_embodiment(), seed=i)
        recorder.colour = seen
        recorder.record(f'episode_{i}', TICKS, f'pick up the {said} cube')
    out = tmp_path / 'out'
    error = refused(capsys, '--checkpoint', trained, '--calibrate', root, '--out', out)
    assert 'does not tell right from wrong' in error
    assert not out.exists()


def test_flags_of_calibration_need_it(trained, capsys):
    assert 'belong to --calibrate' in refused(capsys, '--checkpoint', trained, '--in-place')
