"""Pretrained towers: they give what the library's own model gives, and train what is said."""

import importlib.util
import json
import shutil
import socket

import huggingface_hub.constants
import numpy as np
from pretrained_models import LANGUAGE, save_tiny, VISION
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessorPil,
    Siglip2ImageProcessorPil,
)

from vla_alignment_ros.encoders import pretrained
from vla_alignment_ros.encoders.families import build
from vla_alignment_ros.encoders.families import VISION as FAMILIES
from vla_alignment_ros.encoders.language import build_tokenizer, spoken_words, tokenize
from vla_alignment_ros.encoders.pretrained import (
    describe_language,
    describe_vision,
    LanguageSpec,
    locate,
    Tuning,
    VisionSpec,
)
from vla_alignment_ros.encoders.pretrained_towers import PretrainedLanguage, PretrainedVision
from vla_alignment_ros.errors import ConfigError

SENTENCES = ['pick up the red cube', 'push the blue ball left']
CAMERAS = {'front': (24, 48), 'wrist': (32, 32)}
needs_peft = pytest.mark.skipif(
    importlib.util.find_spec('peft') is None, reason='peft is not installed'
)
MODES = ['frozen', 'tuned', pytest.param('lora', marks=needs_peft)]


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Family -> name of a tiny saved model."""
    root = tmp_path_factory.mktemp('models')
    return {family: save_tiny(family, root / family) for family in {*VISION, *LANGUAGE}}


def see(name, mode='frozen', cameras=CAMERAS, width=16):
    torch.manual_seed(1)
    tower = PretrainedVision(describe_vision(name), cameras, width, Tuning(mode))
    tower.load(name)
    return tower


def read(name, mode='frozen', width=16):
    torch.manual_seed(1)
    spec, tokenizer = describe_language(name)
    tower = PretrainedLanguage(spec, width, Tuning(mode))
    tower.load(name)
    return tower, tokenizer


def images(batch=2, cameras=CAMERAS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator)
        for name, size in cameras.items()
    }


def heard(module, call):
    """What a module is given while `call` runs."""
    given = []
    handle = module.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    call()
    handle.remove()
    return torch.cat(given).detach()


# -- vision -------------------------------------------------------------------------------------


@pytest.mark.parametrize('family', VISION)
def test_a_vision_tower_gives_the_tokens_of_every_camera(models, family):
    tower = see(models[family])
    features = tower(images())
    grids = [(c.rows, c.columns) for c in features.layout]
    assert grids == ([(3, 5), (4, 4)] if family == 'siglip2' else [(4, 4), (4, 4)])
    count = sum(rows * columns for rows, columns in grids)
    assert features.tokens.shape == (2, count, 16) and features.pooled.shape == (2, 16)
    assert features.coordinates.shape == (count, 2)
    floats = tower({name: image.float() for name, image in images().items()})
    assert torch.equal(features.tokens, floats.tokens)


@pytest.mark.parametrize('family', VISION)
def test_a_bright_patch_lights_up_its_own_token(models, family):
    cameras = {'front': (32, 32)}
    tower = see(models[family], cameras=cameras).eval()
    dark = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    for row, column in ((0, 0), (0, 3), (1, 2), (3, 1)):
        bright = dark.clone()
        bright[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 255
        seen = [
            heard(tower.project, lambda image=image: tower({'front': image}))
            for image in (dark, bright)
        ]
        change = (seen[1] - seen[0]).norm(dim=-1)[0]  # (16,)
        assert change.argmax() == row * 4 + column
        x, y = tower.coordinates[row * 4 + column].tolist()
        assert (x, y) == (column / 2 - 0.75, row / 2 - 0.75)


@pytest.mark.parametrize('family', VISION)
def test_the_tower_sees_what_the_librarys_own_model_sees(models, family):
    name = models[family]
    picture = images(1, {'front': (32, 32)})['front']
    tower = see(name, cameras={'front': (32, 32)}).eval()
    ours = heard(tower.project, lambda: tower({'front': picture}))
    reference = AutoModel.from_pretrained(name.removeprefix('hf:')).eval()
    array = picture[0].numpy()
    spec = describe_vision(name)
    settings = {'image_mean': spec.mean, 'image_std': spec.std, 'return_tensors': 'pt'}
    with torch.no_grad():
        if family == 'siglip2':
            processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
            theirs = reference.vision_model(**processor(array, **settings)).last_hidden_state
        else:
            processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
            pixels = processor(array, **settings)
            vision = getattr(reference, 'vision_model', reference)
            theirs = vision(pixels['pixel_values']).last_hidden_state[:, -16:]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_images_are_resized_as_the_processor_would(models):
    name = models['clip']
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    large = np.kron(small, np.ones((8, 8, 1), np.uint8))  # (96, 128, 3)
    tower = see(name, cameras={'front': (96, 128)})
    ours = tower._pixels(torch.from_numpy(large)[None], 4, 4)
    processor = CLIPImageProcessorPil.from_pretrained(name.removeprefix('hf:'))
    theirs = processor(
        large,
        size={'height': 32, 'width': 32}, do_center_crop=False, return_tensors='pt',
    )['pixel_values']  # fmt: skip
    assert (ours - theirs).abs().max() < 0.05  # PIL rounds to whole numbers


def test_fewer_pixels_are_a_smaller_grid(models):
    spec = describe_vision(models['dinov2'], size=16)
    tower = PretrainedVision(spec, CAMERAS, 16, Tuning())
    assert tower(images()).tokens.shape == (2, 8, 16)
    with pytest.raises(ConfigError, match='patches of 8 px'):
        describe_vision(models['dinov2'], size=4)


# -- language -----------------------------------------------------------------------------------


@pytest.mark.parametrize('family', LANGUAGE)
def test_the_tower_reads_what_the_librarys_own_model_reads(models, family):
    name = models[family]
    folder = name.removeprefix('hf:')
    tower, tokenizer = read(name)
    tower.eval()
    ids = tokenize(tokenizer, SENTENCES)
    states, pooled = (
        heard(part, lambda: tower(ids)) for part in (tower.project, tower.sentence)
    )
    slow = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    model = getattr(model, 'text_model', model)
    padded = 'siglip' in family
    for row, sentence in enumerate(SENTENCES):
        length = {'padding': 'max_length', 'max_length': 24} if padded else {'padding': False}
        inputs = slow(sentence, return_tensors='pt', **length)
        with torch.no_grad():
            if padded:
                output = model(input_ids=inputs['input_ids'])
            else:
                output = model(
                    input_ids=inputs['input_ids'], attention_mask=inputs['attention_mask']
                )
        words = int((ids[row] != 0).sum())
        first = len(tower.spec.prefix)
        theirs = output.last_hidden_state[0]
        assert torch.allclose(states[row, :words], theirs[first : first + words], atol=1e-5)
        whole = output.pooler_output[0] if padded or family == 'clip' else theirs.mean(0)
        assert torch.allclose(pooled[row], whole, atol=1e-5)


@pytest.mark.parametrize('family', LANGUAGE)
def test_padding_changes_nothing_and_an_empty_sentence_is_zero(models, family):
    tower, tokenizer = read(models[family])
    ids = tokenize(tokenizer, SENTENCES[:1])
    wide = torch.nn.functional.pad(ids, (0, 3))
    with torch.no_grad():
        alone = tower(ids)
        padded = tower(torch.cat([wide, torch.zeros_like(wide)]))
    count = ids.shape[1]
    assert padded.mask[0].tolist() == [True] * count + [False] * 3 and not padded.mask[1].any()
    assert torch.allclose(alone.tokens[0], padded.tokens[0, :count], atol=1e-5)
    assert torch.allclose(alone.pooled[0], padded.pooled[0], atol=1e-5)
    assert not padded.pooled[1].any() and torch.isfinite(padded.tokens).all()


@pytest.mark.parametrize('family', LANGUAGE)
def test_a_word_on_its_own_is_the_same_in_every_sentence(models, family):
    tower, tokenizer = read(models[family])
    ids = tokenize(tokenizer, ['the red cube', 'push the red cube left'])
    with torch.no_grad():
        features = tower(ids)
    some = int(ids[0, 0])
    places = (ids == some).nonzero()
    assert {0, 1} <= set(places[:, 0].tolist())
    rows, columns = places.unbind(1)
    vectors, tokens = features.words[rows, columns], features.tokens[rows, columns]
    assert torch.equal(vectors, vectors[:1].expand_as(vectors))
    assert not torch.allclose(tokens[0], tokens[-1], atol=1e-3)


@pytest.mark.parametrize('family', ['clip', 'roberta', 'siglip'])
def test_a_word_that_is_withheld_cannot_be_told_from_another(models, family):
    tower, tokenizer = read(models[family])
    one, other = tokenize(tokenizer, ['push the red cube', 'push the blue cube']).unbind()
    assert int((one != other).sum()) == 1
    withheld = (one != other).float()[None].requires_grad_()
    features = [tower(ids[None], withheld) for ids in (one, other)]
    assert torch.allclose(features[0].pooled, features[1].pooled, atol=1e-6)
    shown = [tower(ids[None]) for ids in (one, other)]
    assert not torch.allclose(shown[0].pooled, shown[1].pooled, atol=1e-3)
    features[0].pooled.square().sum().backward()
    assert withheld.grad.abs().max() > 0


def test_no_text_can_speak_a_special_token(models):
    for family in LANGUAGE:
        spec, tokenizer = describe_language(models[family])
        marks = ' '.join(['<|endoftext|>', '</s>', '<eos>', '[SEP]', '<pad>', '[PAD]'])
        own = tokenize(tokenizer, [marks])[0] - spec.shift
        assert not set(own.tolist()) & {spec.pad, *spec.prefix, *spec.suffix}


def test_words_know_their_pieces(models):
    _, tokenizer = describe_language(models['bert'])
    words = spoken_words(tokenizer, 'Pick up the pushcube!')
    assert [word for word, _ in words] == ['pick', 'up', 'the', 'pushcube']
    assert [place for _, places in words for place in places] == list(
        range(len(tokenize(tokenizer, ['pick up the pushcube'])[0]))
    )
    assert len(words[3][1]) > 1
    own = build_tokenizer(SENTENCES)
    assert spoken_words(own, 'pick the dodecahedron') == [
        ('pick', [0]), ('the', [1]), ('dodecahedron', [2])
    ]  # fmt: skip


def test_a_long_sentence_is_cut_to_the_models_positions(models):
    for family in LANGUAGE:
        tower, tokenizer = read(models[family])
        ids = tokenize(tokenizer, [' '.join(['cube'] * 60)])
        assert ids.shape[1] == tower.spec.longest <= 24
        assert torch.isfinite(tower(ids).pooled).all()


def test_a_sentence_encoder_is_pooled_as_its_folder_says(models, tmp_path):
    folder = tmp_path / 'encoder'
    shutil.copytree(models['bert'].removeprefix('hf:'), folder)
    (folder / '1_Pooling').mkdir()
    (folder / '1_Pooling' / 'config.json').write_text('{"pooling_mode_cls_token": true}')
    assert describe_language(f'hf:{folder}')[0].pooling == 'first'
    assert describe_language(models['bert'])[0].pooling == 'mean'


# -- what trains --------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('family', ['clip', 'dinov2', 'bert'])
def test_only_what_the_mode_says_trains(models, family, mode):
    if family == 'bert':
        tower, tokenizer = read(models[family], mode)
        tower.train()
        features = tower(tokenize(tokenizer, SENTENCES))
        (features.pooled.sum() + features.tokens.sum()).backward()
    else:
        tower = see(models[family], mode)
        tower.train()
        tower(images()).tokens.square().sum().backward()
    assert tower.project[1].weight.grad is not None
    trained = {n for n, p in tower.backbone.named_parameters() if p.grad is not None}
    if mode == 'frozen':
        assert not trained
        assert not any(module.training for module in tower.backbone.modules())
    elif mode == 'lora':
        assert trained and all('.lora_' in name for name in trained)
        wanted = {n for n, p in tower.backbone.named_parameters() if p.requires_grad}
        assert trained == wanted
    else:
        assert any('layer.0' in name or 'layers.0' in name for name in trained)


@needs_peft
def test_fresh_adapters_change_nothing_and_keep_the_pretrained_weights(models):
    plain, adapted = (see(models['siglip'], mode) for mode in ('frozen', 'lora'))
    with torch.no_grad():
        seen = [heard(tower.project, lambda t=tower: t(images())) for tower in (plain, adapted)]
    assert torch.allclose(*seen, atol=1e-6)


def test_a_tower_in_training_gives_the_same_twice(models):
    """No dropout, whatever the config says: its random numbers would break an exact resume."""
    tower, tokenizer = read(models['bert'], 'tuned')
    tower.train()
    ids = tokenize(tokenizer, SENTENCES)
    assert torch.equal(tower(ids).tokens, tower(ids).tokens)


# -- where models come from ---------------------------------------------------------------------


def test_a_tower_is_rebuilt_from_plain_values(models):
    vision = describe_vision(models['siglip2'])
    language, _ = describe_language(models['clip'])
    for spec in (vision, language):
        again = type(spec).from_dict(json.loads(json.dumps(spec.to_dict())))
        assert again == spec
        assert models['clip'].removeprefix('hf:') not in json.dumps(spec.to_dict())
    for cls in (VisionSpec, LanguageSpec):
        with pytest.raises(ConfigError, match='described wrongly'):
            cls.from_dict({'nonsense': 1})
    with pytest.raises(ConfigError, match="'gpt2' is no vision tower"):
        VisionSpec.from_dict({**vision.to_dict(), 'model_type': 'gpt2'})
    with pytest.raises(ConfigError, match="'clip_vision_model' is no language tower"):
        LanguageSpec.from_dict({**language.to_dict(), 'model_type': 'clip_vision_model'})
    config = {**language.config, 'vocab_size': 5}
    with pytest.raises(ConfigError, match='not among 5 words'):
        LanguageSpec.from_dict({**language.to_dict(), 'config': config})


def test_a_config_cannot_name_code(models):
    values = dict(describe_vision(models['clip']).config)
    evil = {'attn_implementation': 'some/kernel', 'auto_map': {'AutoModel': 'some/code--x.Y'}}
    model = build(FAMILIES['clip_vision_model'], {**values, **evil})
    assert model.config._attn_implementation == 'sdpa'
    assert not hasattr(model.config, 'auto_map')
    with pytest.raises(ConfigError, match='CLIPVisionConfig is broken'):
        build(FAMILIES['clip_vision_model'], {**values, 'hidden_act': 'os.system'})


@pytest.mark.parametrize('name', ['hf:openai/no-such-model', 'hf:not/a/folder', 'hf:a b'])
def test_a_model_that_is_not_there_says_how_to_get_it(name):
    with pytest.raises(ConfigError, match='hf download .*PATH/TO/FOLDER'):
        describe_vision(name)


def test_nothing_is_asked_of_the_network(models, monkeypatch):
    def refuse(*_):
        raise AssertionError('the network was asked')

    monkeypatch.delenv('HF_HUB_OFFLINE')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    see(models['clip'])
    read(models['bert'])
    with pytest.raises(ConfigError, match='hf download some/model --revision v2'):
        describe_language('hf:some/model@v2')


def test_a_hub_name_is_found_in_the_cache_at_its_revision(models, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    repository = tmp_path / 'models--lab--tiny'
    commits = {'main': 'a' * 40, 'v2': 'b' * 40}
    for (ref, commit), family in zip(commits.items(), ('clip', 'dinov2')):
        (repository / 'refs').mkdir(parents=True, exist_ok=True)
        (repository / 'refs' / ref).write_text(commit)
        shutil.copytree(models[family].removeprefix('hf:'), repository / 'snapshots' / commit)
    assert describe_vision('hf:lab/tiny').model_type == 'clip_vision_model'
    assert describe_vision('hf:lab/tiny@v2').model_type == 'dinov2'


@pytest.fixture
def copy(models, tmp_path):
    """A CLIP to spoil, as its folder."""
    return shutil.copytree(models['clip'].removeprefix('hf:'), tmp_path / 'clip')


def test_pickled_weights_are_refused(copy):
    (copy / 'model.safetensors').rename(copy / 'pytorch_model.bin')
    with pytest.raises(ConfigError, match=r'no safetensors .*pytorch_model\.bin may run code'):
        locate(f'hf:{copy}')


@pytest.mark.parametrize('spoil, words', [
    (lambda folder: (folder / 'model.safetensors').write_bytes(b'no'), 'cannot read the weights'),
    (lambda folder: (folder / 'config.json').write_text('{'), 'cannot read .*config.json'),
    (lambda folder: (folder / 'config.json').write_text('{"model_type": "gpt2"}'), "'gpt2' is no"),
    (lambda folder: (folder / 'config.json').unlink(), 'no config.json'),
])  # fmt: skip
def test_a_damaged_model_is_refused(copy, spoil, words):
    spoil(copy)
    with pytest.raises(ConfigError, match=words):
        see(f'hf:{copy}')


def test_weights_of_another_model_are_refused(models, copy):
    shutil.copy(f'{models["bert"].removeprefix("hf:")}/model.safetensors', copy)
    with pytest.raises(ConfigError, match='lacks .* weights'):
        see(f'hf:{copy}')


def test_a_model_without_such_a_tower_is_refused(models):
    with pytest.raises(ConfigError, match="'bert' is no vision tower; possible: clip"):
        describe_vision(models['bert'])
    with pytest.raises(ConfigError, match="'dinov2' is no language tower"):
        describe_language(models['dinov2'])


def test_modes_are_checked(monkeypatch):
    with pytest.raises(ConfigError, match='known: frozen, tuned, lora'):
        Tuning('thawed')
    monkeypatch.setattr(pretrained, 'is_peft_available', lambda: False)
    with pytest.raises(ConfigError, match='needs peft: pip install'):
        Tuning('lora')
    monkeypatch.setattr(pretrained, 'is_peft_available', lambda: True)
    with pytest.raises(ConfigError, match='lora_rank must be at least 1'):
        Tuning('lora', rank=0)
