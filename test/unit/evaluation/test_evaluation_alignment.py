"""The whole alignment evaluation: on real scenes, with a model that is right by construction."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from small_model import save_random_checkpoint
import torch

from vla_alignment_ros.cli import vla_evaluate
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.encoders.language import build_tokenizer
from vla_alignment_ros.encoders.vision import CameraTokens, VisionFeatures
from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.evaluation import grounding
from vla_alignment_ros.evaluation.alignment import evaluate_alignment
from vla_alignment_ros.evaluation.probe import AlignmentProbe
from vla_alignment_ros.evaluation.scenes import generate_scenes
from vla_alignment_ros.observation import ActionChunk
from vla_alignment_ros.policy.checkpoint import Calibration
from vla_alignment_ros.sim.phrases import load_splits

HUES = {'red': 0, 'yellow': 25, 'green': 60, 'cyan': 93, 'blue': 116, 'purple': 140}  # OpenCV's
CELL = 8


class ColourVision:
    """Tokens that hold which share of a cell's pixels has which colour."""

    def __init__(self, embodiment):
        layout, start = [], 0
        for c in embodiment.cameras:
            layout.append(CameraTokens(c.name, start, c.height // CELL, c.width // CELL))
            start += c.height * c.width // CELL**2
        self.layout = tuple(layout)

    def __call__(self, images):
        parts = []
        for camera in self.layout:
            rows = []
            for image in images[camera.name].numpy():
                hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
                away = np.abs(hsv[..., :1] - np.array(list(HUES.values())))
                nearest = np.minimum(away, 180 - away).argmin(-1)
                one = np.eye(len(HUES))[nearest] * (hsv[..., 1:2] > 150)
                cells = one.reshape(camera.rows, CELL, camera.columns, CELL, len(HUES))
                rows.append(cells.mean((1, 3)).reshape(-1, len(HUES)))
            parts.append(torch.tensor(np.stack(rows), dtype=torch.float32))
        tokens = torch.cat(parts, dim=1)
        return VisionFeatures(tokens, tokens.mean(1), torch.zeros(tokens.shape[1], 2), self.layout)


class ColourAlignment:
    """Fits where the colour that is named is to be seen; knows no shapes."""

    def __init__(self, tokenizer):
        self.ids = {tokenizer.token_to_id(word): i for i, word in enumerate(HUES)}

    def colours(self, language):
        one = torch.zeros(*language.ids.shape, len(HUES))
        for word, index in self.ids.items():
            one[..., index] = (language.ids == word).float()
        return one  # (M, L, 6)

    def embed(self, vision, language):
        normalize = torch.nn.functional.normalize
        seen = vision.tokens.amax(1)
        return {'vision': normalize(seen, dim=-1),
                'language': normalize(self.colours(language).sum(1), dim=-1)}  # fmt: skip

    def similarity(self, vision, language):
        return torch.einsum('bnc,mc->bmn', vision.tokens, self.colours(language).sum(1)).amax(-1)

    def vision_language(self, vision, language):
        return self.similarity(vision, language).diagonal()

    def sentence_regions(self, vision, language):
        return torch.einsum('bnc,bc->bn', 40 * vision.tokens, self.colours(language).sum(1))

    def word_regions(self, vision, language):
        return 40 * self.colours(language) @ vision.tokens.transpose(1, 2)


class ColourPolicy:
    """As much of a policy as is asked for; its action follows the first word."""

    device = torch.device('cpu')
    calibration = Calibration(slope=40.0, offset=-4.0)

    def __init__(self):
        self.embodiment = Embodiment.load('tabletop')
        splits = load_splits()
        phrases = [p for group in (splits.train_phrases, splits.held_out_phrases)
                   for texts in group.values() for p in texts]  # fmt: skip
        words = ' '.join((*splits.colors, *splits.shapes, *splits.trays, *splits.sides))
        tokenizer = build_tokenizer(
            [words, *(p.format(object='', tray='', side='') for p in phrases)]
        )
        model = SimpleNamespace(
            vision=ColourVision(self.embodiment),
            alignment=ColourAlignment(tokenizer),
            listen=lambda ids: SimpleNamespace(language=Said(ids)),
        )
        self.checkpoint = SimpleNamespace(model=model, tokenizer=tokenizer)

    def step(self, observation, candidates):
        first = next(i for i, w in enumerate(HUES) if w in observation.instruction.split())
        actions = np.full((2, 7), 0.01 * (1 + first), np.float32)
        return SimpleNamespace(chunk=ActionChunk(0, actions, 10.0, observation.instruction))


class Said:
    def __init__(self, ids):
        self.ids = ids

    def rows(self, index):
        return Said(self.ids[index])


@pytest.fixture(scope='module')
def found():
    return evaluate_alignment(ColourPolicy(), 'colours', episodes=8, seed=3)


@pytest.fixture(scope='module')
def scenes():
    return list(generate_scenes(Embodiment.load('tabletop'), 'seen', 3, seed=5))


def test_a_model_that_knows_colours_is_right_about_colours_and_only_those(found):
    for split in ('seen', 'unseen_objects'):
        for form in ('regions', 'crop_score', 'crop_embedding'):
            answers = found.classified[split][form]
            assert answers['colour'].correct == answers['colour'].count >= 16
            # the shapes of its answers are all alike: a tie is no answer
            assert answers['shape'].correct == answers['pair'].correct == 0
        kinds = found.figures['grounding'][split]['front']
        assert kinds['colour']['strict']['hits'] >= kinds['colour']['count'] - 1 >= 6
        assert kinds['colour']['mean_iou'] > 5 * kinds['colour']['mean_area'] > 0
        assert kinds['shape']['strict']['hits'] == 0 and kinds['shape']['count'] == 8
    assert 'sentence' not in found.figures['grounding']['absent']['front']


def test_what_is_right_is_what_is_on_the_table(found):
    viewed = found.viewed['seen']
    for row, scene in enumerate(viewed.scenes):
        for column, other in enumerate(viewed.scenes):
            assert found.right['seen'][row, column] == (other.target in scene.objects)
    figures = found.figures['retrieval']['seen']['by_score']
    assert figures['right_pairs'] == found.right['seen'].sum()
    assert figures['sentence_to_scene']['queries'] == 8
    assert found.right['seen'].diagonal().all()


def test_the_score_falls_where_the_colour_goes_missing_and_is_blind_to_shapes(found):
    match = found.figures['matching']['seen']
    assert match['matched'] == match['missing'] == 8 and match['calibration']['count'] == 16
    assert 0.5 < match['auroc_same_scene'] <= 1.0
    assert match['score_falls']['hits'] < 8  # a missing thing of a colour that is there
    assert found.figures['action_swap']['seen']['scenes'] == 8
    assert found.figures['action_swap']['seen']['relative_change'] > 0


def test_the_file_holds_plain_numbers_and_the_same_seed_the_same(found):
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = evaluate_alignment(ColourPolicy(), 'colours', episodes=8, seed=3)
    assert json.dumps(again.to_dict(), allow_nan=False) == text
    assert json.loads(text)['episodes_per_split'] == 8


def test_scenes_are_the_same_when_asked_for_again_one_by_one(scenes):
    again = next(generate_scenes(Embodiment.load('tabletop'), 'seen', 1, seed=6))
    assert again.spec == scenes[1].spec
    assert (again.observation.images['front'] == scenes[1].observation.images['front']).all()
    assert (again.segmentation['wrist'] == scenes[1].segmentation['wrist']).all()
    assert again.observation.state.tolist() == scenes[1].observation.state.tolist()


def test_masks_lie_on_the_pixels_of_their_things(scenes):
    for scene in scenes:
        image = scene.observation.images['front'].astype(int)
        for colour, shape in scene.objects:
            mask = scene.mask('front', colour, shape)
            assert mask.shape == image.shape[:2]
            if mask.sum() >= grounding.MIN_PIXELS and colour in ('red', 'green', 'blue'):
                channel = ('red', 'green', 'blue').index(colour)
                mean = image[mask].mean(0)
                assert mean.argmax() == channel
        both = scene.mask('front', scene.target[0])
        assert (both | scene.mask('front', *scene.target) == both).all()


def test_another_thing_is_on_the_table_or_missing_from_it(scenes):
    rng = np.random.default_rng(0)
    for scene in scenes:
        for _ in range(5):
            there, missing = scene.another(rng, present=True), scene.another(rng, present=False)
            assert there in scene.objects and there != scene.target
            assert missing not in scene.objects and set(missing) & set(scene.target)
            text = scene.saying(missing)
            assert ' '.join(missing) in text and ' '.join(scene.target) not in text
            assert scene.told(text).images is scene.observation.images


def test_pictures_show_the_words_that_name_things_and_no_others(found):
    pytest.importorskip('matplotlib')
    from vla_alignment_ros.evaluation import alignment_report

    splits = load_splits()
    naming = {*splits.colors, *splits.shapes, *splits.trays, 'tray'}
    shown = alignment_report.overlays(found, AlignmentProbe(ColourPolicy()), 'seen')
    assert len(shown) == alignment_report.OVERLAYS
    for one in shown:
        assert one.words == ['all words', *(w for w in one.title.split() if w in naming)]
        assert len(one.words) == len(one.maps) == len(one.masks) > 2
        assert all(mask is not None for mask in one.masks)


def test_unknown_splits_and_empty_counts_are_refused():
    embodiment = Embodiment.load('tabletop')
    with pytest.raises(ConfigError, match='unknown split'):
        next(generate_scenes(embodiment, 'sen', 1))
    with pytest.raises(ConfigError, match='at least 1'):
        next(generate_scenes(embodiment, 'seen', 0))


def test_the_command_measures_a_checkpoint_and_writes_figures_and_page(tmp_path, capsys):
    matplotlib = pytest.importorskip('matplotlib')
    folder = save_random_checkpoint(tmp_path / 'checkpoint', willing=True)
    figures, report = tmp_path / 'out' / 'figures.json', tmp_path / 'report'
    code = vla_evaluate.main(
        ['--checkpoint', str(folder), '--alignment', '--episodes', '3', '--seed', '2',
         '--json', str(figures), '--report', str(report), '--device', 'cpu']
    )  # fmt: skip
    assert code == 0 and 'AUROC' in capsys.readouterr().out
    read = json.loads(figures.read_text())
    assert read == json.loads((report / 'alignment.json').read_text())
    assert read['seed'] == 2 and read['retrieval']['seen']['by_score']['right_pairs'] >= 3
    page = (report / 'index.html').read_text()
    pictures = sorted(report.glob('*.png'))
    assert page.count('src="data:image/png;base64,') == len(pictures) >= 9
    assert 'http://' not in page and 'https://' not in page
    assert not list(report.glob('training.png'))  # nothing to draw from
    assert matplotlib.get_backend() is not None


def test_the_command_says_in_one_line_what_is_missing(tmp_path, capsys):
    pytest.importorskip('matplotlib')
    folder = save_random_checkpoint(tmp_path / 'checkpoint', willing=True)
    code = vla_evaluate.main(
        ['--checkpoint', str(folder), '--alignment', '--episodes', '1',
         '--report', str(tmp_path / 'report'), '--training-logs', str(tmp_path)]
    )  # fmt: skip
    assert code == 2
    assert 'no TensorBoard event files' in capsys.readouterr().err
