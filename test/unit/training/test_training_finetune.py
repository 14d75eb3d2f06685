"""A run that begins with the weights of a checkpoint: what it takes over, and what it refuses."""

from dataclasses import replace
import json
import shutil

import numpy as np
import pytest
from recordings import make_embodiment
from safetensors.torch import load_file
import torch
from training_demos import record, SENTENCES, smallest

from vla_alignment_ros.cli import vla_train
from vla_alignment_ros.encoders.language import add_words, build_tokenizer, tokenize
from vla_alignment_ros.errors import CheckpointError
from vla_alignment_ros.policy.checkpoint import load_checkpoint
from vla_alignment_ros.policy.policy import Policy
from vla_alignment_ros.training.trainer import Trainer

WORDS = 'language.bert.embeddings.word_embeddings.weight'


def weights(folder):
    return load_file(str(folder / 'model.safetensors'))


def test_it_begins_with_weights_words_and_units_of_the_checkpoint(trained, tmp_path):
    other = record(tmp_path / 'demos', SENTENCES[::-1] * 2)
    trainer = Trainer(smallest(seed=5), [other], tmp_path / 'run', start=trained)
    given, model = weights(trained), trainer.model.state_dict()
    assert all(torch.equal(model[name].cpu(), given[name]) for name in given)
    start = load_checkpoint(trained)
    assert trainer.statistics == start.statistics
    assert trainer.tokenizer.get_vocab() == start.tokenizer.get_vocab()
    after = trainer.run()
    assert not torch.equal(weights(after)['head.position'], given['head.position'])
    notes = json.loads((after / 'config.json').read_text())['training']['start']
    assert (notes['folder'], notes['steps'], notes['new_words']) == (str(trained), 2, [])
    assert np.isfinite(Policy.load(after, 'cpu').warm_up(1))


def test_momentum_copies_begin_with_the_weights_too(lasting_demos, tmp_path):
    data, settings = [lasting_demos], smallest(strategy='align')
    first = Trainer(settings, data, tmp_path / 'first').run()
    trainer = Trainer(replace(settings, seed=5), data, tmp_path / 'run', start=first)
    copies = {
        name.partition('.copies.')[2]: value
        for name, value in trainer.model.state_dict().items()
        if '.copies.vision.' in name
    }
    given = weights(first)
    assert copies.keys() == {name for name in given if name.startswith('vision.')}
    assert all(torch.equal(value.cpu(), given[name]) for name, value in copies.items())


def test_new_words_are_learned_beside_the_known_ones(trained, tmp_path):
    other = record(tmp_path / 'demos', [*SENTENCES, 'pick up the green mug', SENTENCES[1]])
    trainer = Trainer(smallest(), [other], tmp_path / 'run', start=trained)
    assert trainer.start.new_words == ['green', 'mug']
    known = weights(trained)[WORDS]
    assert torch.equal(trainer.model.state_dict()[WORDS].cpu()[: len(known)], known)
    start, sentence = load_checkpoint(trained), [SENTENCES[0]]
    ids = tokenize(start.tokenizer, sentence)
    assert torch.equal(ids, tokenize(trainer.tokenizer, sentence))
    after = load_checkpoint(trainer.run())
    assert after.model.config.vocabulary_size == len(known) + 2
    green, mug = after.model.language(tokenize(after.tokenizer, ['green mug'])).words[0]
    assert not torch.equal(green, mug)


def test_a_tokenizer_keeps_the_ids_of_the_words_it_knows():
    tokenizer = build_tokenizer(['push the red cube'])
    wider, new = add_words(tokenizer, ['push a blue cube', 'the red cube'])
    assert new == ['a', 'blue']
    vocabulary = tokenizer.get_vocab()
    assert {word: wider.get_vocab()[word] for word in vocabulary} == vocabulary
    assert [wider.get_vocab()[word] for word in new] == [len(vocabulary), len(vocabulary) + 1]


def test_another_robot_or_another_model_is_refused_by_name(trained, lasting_demos, tmp_path):
    faster = record(tmp_path / 'demos', SENTENCES * 2, make_embodiment(max_age_s={'front': 9.0}))
    with pytest.raises(CheckpointError, match='another embodiment.*max_age_s'):
        Trainer(smallest(), [faster], tmp_path / 'run', start=trained)
    with pytest.raises(CheckpointError, match='model.width is 64 instead of 32'):
        Trainer(smallest(width=64), [lasting_demos], tmp_path / 'run', start=trained)
    with pytest.raises(CheckpointError, match='model.horizon is 5 instead of 4'):
        Trainer(smallest(horizon=5), [lasting_demos], tmp_path / 'run', start=trained)


def test_motion_where_the_checkpoint_cannot_see_is_said(trained, tmp_path, lasting_demos):
    trainer = Trainer(smallest(), [lasting_demos], tmp_path / 'same', start=trained)
    assert trainer.start.notes() == []
    narrow = tmp_path / 'narrow'
    shutil.copytree(trained, narrow)
    text = json.loads((narrow / 'config.json').read_text())
    text['statistics']['state_std'][1] = 1e-3
    (narrow / 'config.json').write_text(json.dumps(text))
    (note,) = Trainer(smallest(), [lasting_demos], tmp_path / 'run', start=narrow).start.notes()
    assert '(b beyond 5 standard deviations' in note


def test_it_goes_on_with_the_checkpoint_it_was_begun_with_alone(trained, lasting_demos, tmp_path):
    (tmp_path / 'run').mkdir()
    Trainer(smallest(), [lasting_demos], tmp_path / 'run', start=trained).save_state()
    with pytest.raises(CheckpointError, match='begun with other weights.*--from-checkpoint'):
        Trainer(smallest(), [lasting_demos], tmp_path / 'run').run(resume=True)
    again = Trainer(smallest(), [lasting_demos], tmp_path / 'run', start=trained)
    assert again.run(resume=True) is not None


def test_the_command_line_fine_tunes_and_refuses_what_is_no_checkpoint(
    trained, lasting_demos, tmp_path, capsys
):
    arguments = ['--data', str(lasting_demos), '--optimizer.steps', '1', '--optimizer.batch', '8',
                 '--data.val-fraction', '0.3', '--data.horizon', '4', '--model.width', '32',
                 '--model.heads', '2', '--model.language-layers', '1', '--model.decoder-layers',
                 '1', '--threads', '1']  # fmt: skip
    out = ['--out', str(tmp_path / 'run'), '--from-checkpoint', str(trained)]
    assert vla_train.main([*arguments, *out]) == 0
    made = json.loads((tmp_path / 'run' / 'checkpoint' / 'config.json').read_text())
    assert made['training']['start']['steps'] == 2
    out = ['--out', str(tmp_path / 'no'), '--from-checkpoint', str(tmp_path / 'run')]
    assert vla_train.main([*arguments, *out]) == 2
    assert 'lacks model.safetensors' in capsys.readouterr().err
