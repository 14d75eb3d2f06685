"""How the templates of HTML pages are filled in."""

from __future__ import annotations

import jinja2


def environment() -> jinja2.Environment:
    """With the templates of this package; a name that a page is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader('vla_alignment_ros.evaluation', 'templates'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
