"""The page, the figures and the table that a graded folder becomes."""

import csv
import html
import json
import re

from acted_recordings import Actor
import pytest

from vla_alignment_ros.data.bag import EpisodeReader
from vla_alignment_ros.data.quality import EpisodeQuality, Finding, Limits, Severity
from vla_alignment_ros.data.relabel import plan_table, read_table
from vla_alignment_ros.evaluation import quality_report
from vla_alignment_ros.evaluation.label_check import ACTION, SCENE
from vla_alignment_ros.evaluation.quality_report import (
    FIGURES,
    LABELS,
    Made,
    write_figures,
    write_labels,
    write_quality_report,
)

MADE = Made('vla_bag check demos', Limits(), 'tabletop', 0.5)
SCORES = {ACTION: 0.8, SCENE: 0.9, 'duration_s': 2.0, 'samples': 20.0}


@pytest.fixture
def graded(tmp_path):
    """A good episode, one with a suggestion, one that is damaged."""
    good, _, _ = Actor(tmp_path / 'a').record('good', ticks=20)
    wrong, _, _ = Actor(tmp_path / 'a').record('wrong', ticks=20, instruction='lift <b>it</b>')
    label = Finding('label', Severity.ERROR, 'does not fit', suggestion='push, it')
    jump = Finding('action', Severity.WARNING, 'a jump', at_s=1.0)
    return [
        EpisodeQuality(good, 'lift it', usable=True, measures=SCORES),
        EpisodeQuality(wrong, 'lift <b>it</b>', usable=True, measures=SCORES,
                       findings=(jump, label)),
        EpisodeQuality(tmp_path / 'gone', findings=(Finding('damaged', Severity.ERROR, 'cut'),)),
    ]  # fmt: skip


def test_the_page_stands_alone_and_shows_what_was_found(graded, tmp_path):
    page = write_quality_report(tmp_path / 'out', graded, MADE).read_text(encoding='utf-8')
    said = html.unescape(re.sub('<[^>]*>', ' ', page))
    assert '1 of 3 episodes are good. 2 should not be trained on as they are' in said
    assert 'The words of 1 do not fit' in said and 'push, it' in said
    assert 'lift <b>it</b>' in said and '<b>it</b>' not in page
    assert said.index('does not fit') < said.index('a jump')  # the worst first
    assert not re.search(r'(src|href)="(?!data:)', page)
    pictures = re.findall(r'src="(data:image/(?:png|jpeg);base64,[^"]+)"', page)
    assert len(pictures) == 2 + 2 * 8  # two charts, and eight moments of two cameras
    assert 'stroke="var(--bad)"' in page  # where it jumps


def test_figures_can_be_read_by_a_program(graded, tmp_path):
    write_figures(tmp_path / FIGURES, graded, MADE)
    found = json.loads((tmp_path / FIGURES).read_text())
    assert found['grades'] == {'good': 1, 'warning': 0, 'error': 2}
    assert found['kinds']['label'] == {'error': 1, 'warning': 0, 'info': 0}
    assert [e['grade'] for e in found['found']] == ['good', 'error', 'error']
    assert found['found'][1]['findings'][0] == {
        'kind': 'label', 'severity': 'error', 'text': 'does not fit', 'suggestion': 'push, it',
    }  # fmt: skip
    assert found['limits']['still']['speed'] == 0.025 and found['checkpoint'] == 'tabletop'


def test_suggestions_are_a_table_that_relabel_takes(graded, tmp_path):
    file = tmp_path / LABELS
    assert write_labels(file, graded) == 1
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert row['was'] == 'lift <b>it</b>' and row['why'] == 'does not fit'
    infos = [EpisodeReader(episode.path).info for episode in graded[:2]]
    (change,) = plan_table(infos, read_table(file), 'table')
    assert (change.info.name, change.instruction) == ('wrong', 'push, it')
    assert write_labels(file, graded[:1]) == 0
    assert not file.exists()


def test_a_page_that_cannot_be_written_leaves_the_old_one(graded, tmp_path, monkeypatch):
    page = write_quality_report(tmp_path / 'out', graded[2:], MADE)
    before = page.read_bytes()

    def fails(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', fails)
    with pytest.raises(OSError, match='No space'):
        write_quality_report(tmp_path / 'out', graded[2:], MADE)
    assert page.read_bytes() == before


def test_many_episodes_do_not_make_a_page_that_nobody_can_open(graded, tmp_path, monkeypatch):
    monkeypatch.setattr(quality_report, 'SHOWN', 1)
    page = write_quality_report(tmp_path / 'out', graded, MADE).read_text()
    assert page.count('<article') == 1 and 'the other' in page and 'More of them' in page


def test_a_folder_without_any_finding_says_so(graded, tmp_path):
    made = Made('vla_bag check demos', Limits())
    page = write_quality_report(tmp_path / 'out', graded[:1], made).read_text()
    assert 'Nothing was found.' in page and 'no checkpoint was asked' in page
