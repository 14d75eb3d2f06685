"""The report shows what was found and is one file that needs nothing else."""
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.evaluation.films import (
    encode_png,
    Film,
    filmstrip,
    held_spans,
    MAX_KEPT,
    score_path,
)
from vla_alignment_ros.evaluation.report import FilmShelf, headline, Settings, write_report
from vla_alignment_ros.evaluation.results import EpisodeResult, gather


def episode(split='seen', index=0, success=True, instruction='pick up the red cube'):
    refused = split == 'absent' and success
    return EpisodeResult(
        index, index, split, 'pick', instruction, 'red cube', success, False, False, refused,
        'hold' if refused else 'success' if success else 'limit', 30, 3.0, 0.5, (), 0.0,
        (0.9,) * 29 + (float('nan'),), ('go',) * 20 + ('hold',) * 10, 0.01)


def film(steps=30):
    made = Film()
    for step in range(steps):
        made.add(step, np.full((24, 32, 3), step % 256, np.uint8))
    return made


def made_report(tmp_path, episodes, **kwargs):
    shelf = FilmShelf(per_outcome=2)
    for item in episodes:
        shelf.add(item, film())
    page = write_report(
        tmp_path, gather('checkpoints/x', 0, episodes), shelf,
        Settings(command='vla_evaluate --seed 0', go=0.6, hold=0.3, **kwargs))
    return page.read_text(encoding='utf-8')


def test_report_needs_no_other_file(tmp_path):
    html = made_report(tmp_path, [episode(), episode('absent'), episode(success=False)])
    text = re.sub(r'base64,[^"]+', '', html)
    assert not re.search(r'(https?:)?//(?!\s)[a-z0-9.-]+\.[a-z]', text)
    assert not re.search(r'<(script|link|iframe)\b', html)
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert sources and all(source.startswith('data:image/') for source in sources)


def test_report_shows_failures_beside_successes(tmp_path):
    html = made_report(
        tmp_path, [episode(), episode(index=1, success=False), episode('absent', 2)])
    for text in ('Successes', 'Failures', 'Refused, rightly', 'out of time', '1 of 2',
                 'vla_evaluate --seed 0', 'checkpoints/x', 'pick up the red cube'):
        assert text in html, text
    assert (tmp_path / 'results.json').is_file() and (tmp_path / 'episodes.json').is_file()


def test_report_escapes_instructions(tmp_path):
    html = made_report(tmp_path, [episode(instruction='<b>pick</b> "it" & go')])
    assert '<b>pick</b>' not in html
    assert '&lt;b&gt;pick&lt;/b&gt;' in html


def test_report_keeps_only_so_many_films(tmp_path):
    html = made_report(tmp_path, [episode(index=i) for i in range(9)])
    assert html.count('<article') == 2


def test_headline_says_counts_and_interval():
    text = headline(gather('c', 0, [episode(), episode('absent')]))
    assert '1 of 1 episodes' in text and 'refused 1 of 1' in text


def test_report_of_nothing_still_renders(tmp_path):
    assert 'Films' in made_report(tmp_path, [])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1500), st.integers(2, 9))
def test_a_film_is_short_and_shows_first_and_newest_frame(steps, count):
    made = film(steps)
    assert len(made.frames) <= MAX_KEPT
    picked = [step for step, _ in made.pick(count)]
    assert picked == sorted(set(picked)) and len(picked) <= count
    assert (picked[0], picked[-1]) == (0, steps - 1)


def test_filmstrip_is_a_png_with_clear_gaps():
    strip = filmstrip(film(), 3)
    assert strip.shape[2] == 4 and set(np.unique(strip[..., 3])) == {0, 255}
    assert encode_png(strip).startswith(b'\x89PNG')
    assert filmstrip(Film()) is None


def test_score_path_leaves_gaps_and_stays_inside():
    path = score_path([0.0, float('nan'), 1.5, 0.5], 90, 60)
    assert path == 'M0.0 60.0 M60.0 0.0 L90.0 30.0'
    assert score_path([], 90, 60) == ''


def test_held_spans_cover_each_stretch():
    gates = ['hold', 'hold', 'hold', 'go', 'go', 'hold']
    assert held_spans(gates, 50.0) == [(0.0, 20.0), (50.0, pytest.approx(5.0))]
