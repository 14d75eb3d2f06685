"""Checkpoints from somebody who means harm: nothing is run, nothing grows, each is refused."""

from __future__ import annotations

import json
from pathlib import Path
import pickle
import shutil
import struct
import subprocess
import sys

from pickle_bomb import Bomb
import pytest
from safetensors.torch import load_file, save_file
from small_model import save_random_checkpoint
import torch

from vla_alignment_ros.errors import CheckpointError, ConfigError, EmbodimentError
from vla_alignment_ros.observation import ObservationAssembler
from vla_alignment_ros.policy.checkpoint import (
    Calibration,
    CONFIG,
    load_checkpoint,
    MAX_CONFIG_BYTES,
    MAX_TOKENIZER_BYTES,
    TOKENIZER,
    WEIGHTS,
)


@pytest.fixture(scope='module')
def honest(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return save_random_checkpoint(tmp_path_factory.mktemp('honest') / 'checkpoint', willing=True)


@pytest.fixture
def folder(honest, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(honest, tmp_path / 'checkpoint'))


def change(folder: Path, *keys: str, to: object) -> None:
    """Set one value of the config."""
    config = json.loads((folder / CONFIG).read_text())
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    (folder / CONFIG).write_text(json.dumps(config))


# -- weights ------------------------------------------------------------------------------------


def test_a_pickle_is_never_opened_whatever_it_is_called(folder, tmp_path):
    went_off = tmp_path / 'went_off'
    bomb = pickle.dumps(Bomb(went_off))
    for name in ('model.bin', 'pytorch_model.bin', 'model.pt', 'model.ckpt'):
        (folder / name).write_bytes(bomb)
    assert load_checkpoint(folder).model is not None  # what lies beside is nobody's business
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(bomb)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(folder)
        (folder / name).write_bytes(original)
    assert not went_off.exists()
    pickle.loads(bomb)  # noqa: S301 - it would have
    assert went_off.exists()


def headed(claimed: int, header: bytes = b'{}') -> bytes:
    return struct.pack('<Q', claimed) + header


@pytest.mark.parametrize(
    'content',
    [b'', b'\0' * 7, headed(2**62), headed(2**64 - 1), headed(90_000_000), headed(2, b'[]'),
     headed(9, b'{"a":{{{{'),
     headed(67, b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}')],
    ids=['empty', 'short', '2^62', '2^64', '90 MB', 'list', 'deep', 'shape'],
)  # fmt: skip
def test_a_file_that_lies_about_itself_is_no_weights(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match='not a safetensors file.*again'):
        load_checkpoint(folder)


def test_a_truncated_file_is_refused(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match='not a safetensors file'):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda t: t.fill_(float('nan')), 'not finite'),
        (lambda t: t.index_fill_(0, torch.tensor([0]), float('inf')), 'not finite'),
        (lambda t: t.new_zeros(*t.shape, 2), 'shape'),
        (lambda t: t.to(torch.int64), 'kind'),
        (lambda t: None, 'missing'),
    ],
)
def test_weights_of_another_kind_are_named(folder, spoil, message):
    weights = load_file(str(folder / WEIGHTS))
    name = 'state.layers.0.weight' if 'state.layers.0.weight' in weights else sorted(weights)[0]
    weights[name] = spoil(weights[name].clone())
    save_file({k: v for k, v in weights.items() if v is not None}, str(folder / WEIGHTS))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert name in str(caught.value)


def test_weights_nobody_asked_for_are_named(folder):
    weights = load_file(str(folder / WEIGHTS)) | {'backdoor': torch.zeros(3)}
    save_file(weights, str(folder / WEIGHTS))
    with pytest.raises(CheckpointError, match='unknown: backdoor'):
        load_checkpoint(folder)


# -- config -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'text',
    ['[' * 200_000, '{"a":' * 200_000, '{"format": 1, "x": \udcff}'],
    ids=['lists', 'mappings', 'not UTF-8'],
)
def test_a_config_without_end_is_no_json(folder, text):
    (folder / CONFIG).write_text(text, errors='surrogateescape')
    with pytest.raises(CheckpointError, match='not valid JSON.*again'):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ('key', 'value'),
    [('width', -4), ('width', 0), ('width', 2**40), ('width', 'wide'), ('width', 32.5),
     ('heads', 0), ('heads', 7), ('horizon', -1), ('horizon', 10**7), ('pointers', 0),
     ('language_layers', 10**9), ('decoder_layers', 10**9), ('vocabulary_size', 10**12),
     ('state_dim', -1), ('state_dim', 3), ('position_index', [9999, 0, 1]),
     ('position_index', [0]), ('projections', {'nowhere': [[1]]}), ('projections', 3),
     ('cameras', {'front': [64, 64]}), ('cameras', {'../x': [128, 128], 'wrist': [64, 64]}),
     ('alignment', 'nope'), ('alignment_settings', {'grounded': {'system': 'x'}}),
     ('alignment_settings', {'vla': {'embed': 10**12}}), ('alignment_settings', [1]),
     ('vision', 'hf:nowhere'), ('withhold', 'yes'), ('backdoor', 1),
     ('pretrained', {'vision': {'config': {'num_hidden_layers': 10**9}}})],
)  # fmt: skip
def test_a_model_that_cannot_be_meant_is_refused_before_it_is_built(folder, key, value):
    change(folder, 'model', key, to=value)
    with pytest.raises(CheckpointError, match=CONFIG):
        load_checkpoint(folder)


def test_a_model_larger_than_its_weights_takes_no_memory(folder):
    change(folder, 'model', 'width', to=8192)
    with pytest.raises(CheckpointError, match='does not fit its config'):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ('key', 'value'),
    [('slope', 'x'), ('slope', float('inf')), ('offset', None), ('go', float('nan')),
     ('go', [1]), ('go', True), ('go', 0.1), ('hold', -1.0), ('go', 1.5), ('other', 1)],
)  # fmt: skip
def test_a_gate_that_would_never_close_is_refused(folder, key, value):
    change(folder, 'calibration', key, to=value)
    with pytest.raises(CheckpointError, match='calibration|Calibration'):
        load_checkpoint(folder)


def test_a_calibration_in_the_wrong_order_cannot_even_be_made():
    with pytest.raises(ConfigError, match='0 ≤ hold ≤ go ≤ 1'):
        Calibration(1.0, 0.0, go=0.2, hold=0.4)


@pytest.mark.parametrize(
    ('part', 'value'),
    [('embodiment', []), ('model', []), ('statistics', []), ('calibration', []),
     ('training', 5), ('metrics', 'x'), ('statistics', {'state_mean': [None]})],
)  # fmt: skip
def test_a_part_of_another_type_is_refused(folder, part, value):
    change(folder, part, to=value)
    with pytest.raises(CheckpointError, match=CONFIG):
        load_checkpoint(folder)


# -- tokenizer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'content',
    [b'', b'{}', b'[' * 100_000, b'\xff\xfe', b'{"model": {"type": "Python"}}'],
    ids=['empty', 'mapping', 'deep', 'not UTF-8', 'unknown'],
)
def test_nonsense_is_no_tokenizer(folder, content):
    (folder / TOKENIZER).write_bytes(content)
    with pytest.raises(CheckpointError, match='not a tokenizer.*again'):
        load_checkpoint(folder)


def test_a_tokenizer_whose_ids_point_beyond_the_embeddings_is_refused(folder):
    data = json.loads((folder / TOKENIZER).read_text())
    last = max(data['model']['vocab'], key=data['model']['vocab'].get)
    data['model']['vocab'][last] = 4_000_000_000
    (folder / TOKENIZER).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match='ids beyond'):
        load_checkpoint(folder)


# -- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'uri',
    ['SECRET', '../SECRET', 'package://vla_alignment_ros/../SECRET', 'package://../SECRET',
     'package://./SECRET', 'package:///SECRET', 'file://SECRET', '~/../SECRET'],
)  # fmt: skip
def test_a_robot_model_elsewhere_is_never_read(folder, tmp_path, monkeypatch, uri):
    secret = tmp_path / 'secret.urdf'
    secret.write_text('<robot name="hush"><link name="hush"/></robot>')
    inside = tmp_path / 'inside'
    inside.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.delenv('VLA_RESOURCE_PATH', raising=False)
    name = str(secret) if 'SECRET' == uri or 'file' in uri else secret.name
    change(folder, 'embodiment', 'urdf', to=uri.replace('SECRET', name))
    embodiment = load_checkpoint(folder).embodiment
    with pytest.raises(EmbodimentError) as caught:
        ObservationAssembler(embodiment)
    assert 'hush' not in str(caught.value)
    assert 'VLA_RESOURCE_PATH' in str(caught.value) or 'cannot resolve' in str(caught.value)


# -- memory -------------------------------------------------------------------------------------

MEASURE = """
import json, resource, sys
from vla_alignment_ros.errors import CheckpointError
from vla_alignment_ros.policy.checkpoint import load_checkpoint
load_checkpoint(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reasons = []
for folder in sys.argv[2:]:
    try:
        load_checkpoint(folder)
    except CheckpointError as error:
        reasons.append(str(error))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([(after - before) * 1024, reasons]))
"""


def test_files_that_claim_to_be_huge_take_no_memory(honest, tmp_path):
    def spoiled(name: str) -> Path:
        return Path(shutil.copytree(honest, tmp_path / name))

    lying = spoiled('lying')
    (lying / WEIGHTS).write_bytes(headed(2**62))
    long_header = spoiled('long_header')
    with open(long_header / WEIGHTS, 'wb') as file:  # sparse: it takes no disk
        file.write(struct.pack('<Q', 2**31))
        file.truncate(2**31 + 8)
    wide = spoiled('wide')
    change(wide, 'model', 'width', to=8192)
    folders = [lying, long_header, wide]
    for name, limit in ((CONFIG, MAX_CONFIG_BYTES), (TOKENIZER, MAX_TOKENIZER_BYTES)):
        folders.append(spoiled(f'large_{name}'))
        with open(folders[-1] / name, 'wb') as file:
            file.truncate(20 * limit)
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, str(honest), *map(str, folders)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    grown_bytes, reasons = json.loads(done.stdout.splitlines()[-1])
    assert len(reasons) == len(folders)
    assert grown_bytes < 150e6
