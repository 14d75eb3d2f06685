"""The commands in README and docs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import shlex

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').glob('*.md'))]


def blocks(path: Path) -> list[tuple[str, str]]:
    """Fenced blocks of a page: language, text."""
    text = path.read_text(encoding='utf-8')
    return re.findall(r'^```(\w*)\n(.*?)^```', text, flags=re.MULTILINE | re.DOTALL)


def commands(path: Path) -> Iterator[list[str]]:
    """Commands in the bash blocks of a page, as words; comments are left out."""
    for text in (text for language, text in blocks(path) if language == 'bash'):
        rest = ''
        for line in text.splitlines():
            rest += line
            if rest.endswith('\\'):
                rest = rest[:-1]
                continue
            try:
                words = shlex.split(rest, comments=True)
            except ValueError:  # the quotation goes on
                rest += ' '
                continue
            rest = ''
            if words:
                yield words
