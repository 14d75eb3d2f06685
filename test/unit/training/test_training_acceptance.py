"""Whether a new checkpoint may serve: judged on held-out episodes, and never in doubt for it."""

from dataclasses import replace
import json
import shutil

import pytest
from recordings import make_embodiment
from safetensors.torch import load_file, save_file
import torch
from training_demos import smallest

from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.errors import CheckpointError
from vla_alignment_ros.policy.checkpoint import Calibration, load_checkpoint, save_recalibrated
from vla_alignment_ros.policy.normalizer import Normalizer
from vla_alignment_ros.policy.policy import pick_device
from vla_alignment_ros.training import acceptance
from vla_alignment_ros.training.acceptance import judge
from vla_alignment_ros.training.batches import BatchStream
from vla_alignment_ros.training.trainer import Trainer
from vla_alignment_ros.training.validation import validate
from vla_alignment_ros.training.verdict import Verdict

WEIGHTS = 'model.safetensors'
ROBOT = make_embodiment()


@pytest.fixture
def episodes(lasting_demos, tmp_path):
    """The list of them."""
    file = tmp_path / 'episodes.txt'
    file.write_text(''.join(f'{path}\n' for path in sorted(lasting_demos.glob('episode_*'))))
    return file


def altered(folder, out, change):
    """A copy of a checkpoint with other weights."""
    shutil.copytree(folder, out)
    weights = load_file(out / WEIGHTS)
    change(weights)
    save_file(weights, out / WEIGHTS)
    return out


@pytest.fixture
def worse(trained, tmp_path):
    def shift(weights):
        weights['head.out.bias'] += 3.0

    return altered(trained, tmp_path / 'worse', shift)


def test_a_checkpoint_is_as_good_as_itself(trained, episodes):
    verdict = judge(trained, episodes, ROBOT, trained, 0.0)
    assert verdict.accepted, verdict.reason
    assert verdict.metrics == verdict.metrics_against
    assert verdict.metrics['action_l1'] > 0 and 'on held-out episodes' in verdict.reason
    alone = judge(trained, episodes, ROBOT, None, 0.0)
    assert alone.accepted and alone.metrics == verdict.metrics and alone.metrics_against == {}


def test_a_worse_one_is_refused_with_both_numbers_and_a_better_one_is_not(
    trained, worse, episodes
):
    verdict = judge(worse, episodes, ROBOT, trained, 0.05)
    new, old = verdict.metrics['action_l1'], verdict.metrics_against['action_l1']
    assert not verdict.accepted and new > 2 * old
    assert f'action error {new:.4g} instead of {old:.4g}' in verdict.reason
    assert str(trained) in verdict.reason
    assert judge(trained, episodes, ROBOT, worse, 0.0).accepted
    assert judge(worse, episodes, ROBOT, trained, new / old).accepted


def test_what_is_held_out_is_what_was_held_out_of_its_own_training(
    trained, episodes, lasting_demos
):
    loaded = load_dataset([lasting_demos], horizon=4, val_fraction=0.3, progress=False)
    checkpoint = load_checkpoint(trained)
    stream = BatchStream(loaded.val, checkpoint.tokenizer, min(64, len(loaded.val)), 0)
    device = pick_device()
    expected, _ = validate(checkpoint.model.to(device), stream, 24, 0, device)
    found = judge(trained, episodes, ROBOT, None, 0.0).metrics
    assert found == pytest.approx(expected, rel=1e-5)


def test_errors_of_models_with_units_of_their_own_are_counted_in_one(trained, lasting_demos):
    loaded = load_dataset([lasting_demos], horizon=4, val_fraction=0.3, progress=False)
    checkpoint = load_checkpoint(trained)
    stream = BatchStream(loaded.val, checkpoint.tokenizer, len(loaded.val), 0)

    def error(wider):
        s = checkpoint.statistics
        low, high = ([wider * v for v in side] for side in (s.action_low, s.action_high))
        units = Normalizer(replace(s, action_low=low, action_high=high))
        found, _ = validate(checkpoint.model, stream, 1, 0, torch.device('cpu'), units)
        return found['action_l1']

    own, _ = validate(checkpoint.model, stream, 1, 0, torch.device('cpu'))
    assert error(1.0) == pytest.approx(own['action_l1'], rel=1e-6)
    # the gripper has no unit; of the rest a half, and three quarters, are gone
    assert (error(1.0) - error(4.0)) / (error(1.0) - error(2.0)) == pytest.approx(1.5, rel=1e-4)
    assert error(1.0) > error(2.0)


def test_chunks_of_another_length_are_compared_by_what_both_have(
    trained, episodes, lasting_demos, tmp_path
):
    short = Trainer(smallest(horizon=2), [lasting_demos], tmp_path / 'short').run()
    verdict = judge(short, episodes, ROBOT, trained, 100.0)
    assert verdict.accepted, verdict.reason
    assert judge(trained, episodes, ROBOT, short, 100.0).metrics_against.keys() >= {'action_l1'}
    alone = judge(trained, episodes, ROBOT, None, 0.0).metrics['action_l1']
    assert verdict.metrics_against['action_l1'] != alone


def spoil_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def spoil_scale(folder):
    weights = load_file(folder / WEIGHTS)
    weights['normalizer.action_scale'][:] = 3.4e38
    weights['normalizer.action_centre'][:] = 3.4e38
    save_file(weights, folder / WEIGHTS)


def forget_training(folder):
    text = json.loads((folder / 'config.json').read_text())
    text['training'] = {}
    (folder / 'config.json').write_text(json.dumps(text))


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (shutil.rmtree, 'not found'),
        (spoil_weights, 'not a safetensors file'),
        (spoil_scale, 'not finite'),
        (forget_training, 'does not say how its episodes were split'),
    ],
)
def test_a_broken_checkpoint_is_refused_with_the_reason(
    trained, episodes, tmp_path, spoil, reason
):
    folder = tmp_path / 'broken'
    shutil.copytree(trained, folder)
    spoil(folder)
    verdict = judge(folder, episodes, ROBOT, trained, 1.0)
    assert not verdict.accepted and reason in verdict.reason
    if spoil is not forget_training:  # and nothing is taken for better than what cannot be read
        verdict = judge(trained, episodes, ROBOT, folder, 1.0)
        assert not verdict.accepted and reason in verdict.reason


def test_another_robot_is_refused_by_the_names_of_what_differs(trained, episodes, tmp_path):
    faster = make_embodiment(rate_hz=20.0)
    verdict = judge(trained, episodes, faster, trained, 1.0)
    assert not verdict.accepted
    assert 'not that of this robot: rate_hz is 10.0 instead of 20.0' in verdict.reason
    other = tmp_path / 'other'
    shutil.copytree(trained, other)
    text = json.loads((other / 'config.json').read_text())
    text['embodiment']['cameras'][0]['topic'] = 'top/image_raw'
    (other / 'config.json').write_text(json.dumps(text))
    verdict = judge(trained, episodes, ROBOT, other, 1.0)
    assert not verdict.accepted and 'cameras[0].topic' in verdict.reason


def test_a_gate_may_not_be_lost(trained, episodes, tmp_path):
    gated = save_recalibrated(trained, tmp_path / 'gated', Calibration(9.0, 0.0, 0.6, 0.4), {})
    open_ = save_recalibrated(trained, tmp_path / 'open', Calibration(), {})
    verdict = judge(open_, episodes, ROBOT, gated, 1.0)
    assert not verdict.accepted and 'gate could not be calibrated' in verdict.reason
    assert judge(gated, episodes, ROBOT, open_, 1.0).accepted


def test_a_score_that_tells_less_is_worse():
    old = {'action_l1': 0.2, 'vl_auroc': 0.9}
    assert acceptance._worse({'action_l1': 0.2, 'vl_auroc': 0.86}, old, 0.05) == []
    (found,) = acceptance._worse({'action_l1': 0.2, 'vl_auroc': 0.84}, old, 0.05)
    assert '84.0 % instead of 90.0 %' in found
    assert acceptance._worse({'action_l1': 0.2}, {'action_l1': 0.2}, 0.0) == []


def test_the_command_leaves_a_verdict_and_says_why_it_cannot(trained, episodes, tmp_path, capsys):
    robot, out = tmp_path / 'robot.yaml', tmp_path / 'verdict.json'
    robot.write_text(json.dumps(ROBOT.to_dict()))
    arguments = [str(trained), '--episodes', str(episodes), '--out', str(out)]
    assert acceptance.main([*arguments, '--robot', str(robot)]) == 0
    assert Verdict.load(out) == judge(trained, episodes, ROBOT, None, 0.0)
    assert 'accepted: action error' in capsys.readouterr().out
    assert acceptance.main([*arguments, '--robot', 'no_such']) == 2
    assert 'no_such' in capsys.readouterr().err
    with pytest.raises(CheckpointError, match='no verdict'):
        Verdict.load(tmp_path / 'nothing')
