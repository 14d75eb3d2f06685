"""The number of torch threads is measured, and more of them have to earn it."""

from __future__ import annotations

import threading

import pytest
import torch

from vla_alignment_ros.policy import threads


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('seconds, best', [((1.0, 0.5), 3), ((1.0, 0.95), 1), ((1.0, 2.0), 1)])
def test_more_threads_have_to_be_clearly_faster(monkeypatch, seconds, best):
    asked = []
    took = dict(zip((1, 3), seconds))
    monkeypatch.setattr(threads.os, 'sched_getaffinity', lambda pid: {0, 1, 2})
    monkeypatch.setattr(threads, '_seconds', lambda work: work() or took[asked[-1]])
    assert threads.fastest_threads(lambda: asked.append(torch.get_num_threads()), 2) == best
    assert asked == [1, 1, 3, 3]
    assert torch.get_num_threads() == best


def test_a_thread_that_begins_later_uses_the_chosen_number(monkeypatch):
    monkeypatch.setattr(threads.os, 'sched_getaffinity', lambda pid: {0, 1})
    monkeypatch.setattr(threads, '_seconds', lambda work: 1.0 / torch.get_num_threads())
    assert threads.fastest_threads(lambda: None) == 2
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]
