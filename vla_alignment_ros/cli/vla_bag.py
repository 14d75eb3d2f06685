"""`vla_bag`: everything that can be done with recorded demonstrations, a module each."""

from __future__ import annotations

import sys

import tyro

from vla_alignment_ros.cli.bag_check import check
from vla_alignment_ros.cli.bag_export import export
from vla_alignment_ros.cli.bag_import import import_
from vla_alignment_ros.cli.bag_info import info
from vla_alignment_ros.cli.bag_merge import merge
from vla_alignment_ros.cli.bag_play_sheet import play_sheet
from vla_alignment_ros.cli.bag_recover import recover
from vla_alignment_ros.cli.bag_relabel import relabel
from vla_alignment_ros.cli.bag_trim import trim
from vla_alignment_ros.cli.console import guarded

DESCRIPTION = 'Work on recorded demonstrations: one rosbag2 folder per episode.'
COMMANDS = (info, check, relabel, trim, merge, play_sheet, recover, export, import_)

app = tyro.extras.SubcommandApp()
for _command in COMMANDS:
    app.command(_command, name=_command.__name__.rstrip('_'))  # `import` is a word of Python


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    return guarded(
        'vla_bag',
        lambda: app.cli(prog='vla_bag', description=DESCRIPTION, args=arguments),
    )


if __name__ == '__main__':
    sys.exit(main())
