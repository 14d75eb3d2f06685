"""Names and sentences that nobody means well with, counted and drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
import random

PARTS = (
    '../', '..\\', '/', '\\', '~', '~root/', './', '//', '.partial', '.', '..', '\0', '\n', '\r',
    '\t', '\x1b[2J', '\x07', '\x7f', '\u202e', '\u2066', '\u200b', '\ufeff', '\u0301' * 40,
    'ﷺ', '𝕏', '🤖', 'é', 'ß', 'CON', 'nul', 'aux.mcap', '$(touch pwned)', '`touch pwned`',
    ';touch pwned;', '|touch pwned', '&& touch pwned', '> pwned', '%s%n', '{0}', '${HOME}', '*',
    '?', '[a-z]', "'", '"', '!!python/object/apply:os.system', '- a: &x [*x]', '#', ':', '=', '\\',
    'etc/passwd', 'metadata.yaml', 'episode_000000_', 'a', 'b c', '-rf', '--', '\ud800', '\udfff',
)  # fmt: skip
HUGE = 2_000_000  # characters; one in `HUGE_EVERY` is so long
HUGE_EVERY = 100


def hostile_texts(count: int, seed: int = 0) -> Iterator[str]:
    """So many texts of such parts."""
    rng = random.Random(seed)
    for number in range(count):
        text = ''.join(rng.choices(PARTS, k=rng.randint(1, 12)))
        if number % HUGE_EVERY == HUGE_EVERY - 1:
            text *= HUGE // len(text)
        yield text
