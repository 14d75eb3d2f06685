"""Files are whole or as they were."""

import os

import pytest

from vla_alignment_ros.data.files import write_file


def test_a_file_is_made_and_replaced_and_keeps_its_mode(tmp_path):
    file = tmp_path / 'a.txt'
    write_file(file, b'one')
    assert file.read_bytes() == b'one' and file.stat().st_mode & 0o400
    file.chmod(0o640)
    os.link(file, tmp_path / 'link')
    write_file(file, b'two')
    assert file.read_bytes() == b'two' and file.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / 'link').read_bytes() == b'one'
    assert sorted(os.listdir(tmp_path)) == ['a.txt', 'link']


@pytest.mark.parametrize('there', [True, False])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, there):
    file = tmp_path / 'a.txt'
    if there:
        file.write_bytes(b'one')

    def fails(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fails)
    with pytest.raises(OSError, match='No space'):
        write_file(file, b'two')
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([b'one'] if there else [])
