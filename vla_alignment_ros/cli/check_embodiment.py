"""`vla_demo --check-embodiment FILE`: whether the running robot fits its embodiment file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
import tyro

from vla_alignment_ros.cli.console import guarded, no_ros, printable
from vla_alignment_ros.control.live_check import check_live
from vla_alignment_ros.control.live_seen import FAULT, Finding, NOTE
from vla_alignment_ros.embodiment import Embodiment

OPTION = '--check-embodiment'
DESCRIPTION = """Compare a running robot with its embodiment file.

Listens for some seconds and says what is missing, mistyped, in another order, too slow, out of
range, in another unit, not compatible or stamped by another clock. It moves nothing.

The exit code is 0 where all is as described, 1 where something is not, 2 where the file cannot be
read."""
PROG = f'vla_demo {OPTION}'
STYLES = {FAULT: 'red', NOTE: 'yellow'}


@dataclass(frozen=True)
class Check:
    """See DESCRIPTION."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar='FILE')]
    """YAML file of the embodiment, or the name of a shipped one."""
    seconds: float = 5.0
    """How long to listen."""
    namespace: str = ''
    """Namespace of the robot's topics."""


def check_embodiment(options: Check) -> int:
    """Look at the robot and print one line per finding, the faults first."""
    embodiment = Embodiment.load(options.file)
    try:
        from vla_alignment_ros.nodes.embodiment_probe import Probe
    except ImportError as error:
        raise no_ros(error) from error
    probe = Probe(embodiment, options.namespace)
    try:
        findings = check_live(embodiment, probe.look(options.seconds))
    finally:
        probe.close()
    return report(embodiment, findings)


def report(embodiment: Embodiment, findings: list[Finding]) -> int:
    """Print the findings; the exit code."""
    console = Console()
    for finding in findings:
        line = printable(f'{finding.level:<5}  {finding.subject}: {finding.text}')
        style = STYLES.get(finding.level, 'green')
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    faults = sum(finding.level == FAULT for finding in findings)
    number = f'{faults} fault{"s" if faults > 1 else ""}'
    print(f'{embodiment.name}: {number if faults else "it fits"}')
    return 1 if faults else 0


def main(arguments: list[str]) -> int:
    """Command line, after the option."""
    chosen = tyro.cli(Check, prog=PROG, description=DESCRIPTION, args=arguments)
    return guarded(PROG, lambda: check_embodiment(chosen))
