"""What the tests of training train on."""

import pytest
import torch

SENTENCES = ('pick up the red cube', 'pick up the blue ball', 'push the red cube left')


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def demos(tmp_path, variant):
    """Six small episodes of three sentences."""
    root = tmp_path / 'demos'
    for i in range(6):
        extra = {'task': 'pick', 'group': SENTENCES[i % 3]}
        recorder = variant(root, seed=i)
        recorder.record(f'episode_{i}', ticks=8, instruction=SENTENCES[i % 3], extra=extra)
    return root
