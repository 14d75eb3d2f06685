"""The checkpoint that is shipped: whole, small, fit for the shipped robot, of no machine."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

from vla_alignment_ros.embodiment import Embodiment, package_path
from vla_alignment_ros.policy.checkpoint import Checkpoint, CONFIG, load_checkpoint

SHIPPED = package_path('checkpoints', 'tabletop')
MAX_BYTES = 10 * 10**6
# an absolute path on Linux, macOS or Windows; package://… is none
ABSOLUTE = re.compile(r'(?<![\w.:/~])(/[\w.-]+){2,}|~/|\b[A-Za-z]:\\\\')


@pytest.fixture(scope='module')
def shipped() -> Checkpoint:
    return load_checkpoint(SHIPPED)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())


def test_it_loads_and_moves_the_shipped_robot(shipped):
    assert shipped.embodiment == Embodiment.load('tabletop')
    assert shipped.embodiment.digest() == Embodiment.load('tabletop').digest()


def test_it_is_small():
    assert size_of(SHIPPED) <= MAX_BYTES


def test_it_tells_matching_sentences_from_others(shipped):
    assert shipped.metrics['vl_auroc'] >= 0.9
    calibration = shipped.calibration
    assert calibration.fitted and 0.0 < calibration.hold < calibration.go < 1.0


def test_its_config_names_no_machine():
    text = (SHIPPED / CONFIG).read_text(encoding='utf-8')
    assert not (found := ABSOLUTE.search(text)), found.group()


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        ('--data /srv/demos --out x', True),
        ('"/opt/me/runs"', True),
        ('--data=/media/disk/x', True),
        ('~/runs', True),
        ('C:\\\\Users', True),
        ('--data runs/tabletop/demonstrations', False),
        ('package://vla_alignment_ros/urdf/arm.urdf', False),
        ('config/train/vla.yaml', False),
    ],
)
def test_a_machine_path_would_be_found(text, named):
    assert bool(ABSOLUTE.search(text)) == named
