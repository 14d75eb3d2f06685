"""The parameters of the nodes: one frozen dataclass each, the only place that says them.

Those of servo_node are in `servo_parameters`, of training_node in `training_parameters` and
`job_parameters`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_alignment_ros.control.executor import EXECUTIONS
from vla_alignment_ros.control.joint_commands import INTERFACES
from vla_alignment_ros.nodes.parameters import parameter

SPLITS = ('train', 'val', 'seen', 'unseen_objects', 'unseen_phrases', 'swapped', 'absent')
ACT, SHADOW, INLINE = MODES = ('act', 'shadow', 'inline')
TWIST = 'twist'


@dataclass(frozen=True)
class SimulatorParameters:
    """Parameters of simulator_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment to simulate.')
    split: str = parameter('seen', 'Split the next episode is from.', choices=SPLITS, live=True)
    seed: int = parameter(
        0, 'Scene number of the next episode within its split.', low=0, high=2**62, live=True
    )
    publish_instruction: bool = parameter(
        False, "Whether a reset publishes the episode's instruction.", live=True
    )
    reset_on_start: bool = parameter(True, 'Whether the node begins with an episode.')
    lockstep: bool = parameter(
        False, 'Time stands still until the command for the last observation has come.'
    )
    lockstep_retry_s: float = parameter(
        0.2,
        'In lock-step: publish the observation again after so long without its command.',
        unit='s', low=0.05, high=3600.0,
    )
    real_time_factor: float = parameter(
        1.0, 'Free-running: simulated seconds per second.', low=0.01, high=100.0
    )
    command_timeout_s: float = parameter(
        0.5,
        'Free-running: the arm stops when no command came for so long (simulated time).',
        unit='s', low=0.0, high=60.0,
    )
    command_interface: str = parameter(
        TWIST,
        "What moves the arm: the embodiment's twists, or joint commands as ros2_control takes "
        'them (not in lock-step).',
        choices=(TWIST, *INTERFACES),
    )
    joint_rate_hz: float = parameter(
        100.0, 'Rate of the joint controllers, joint states and /clock, with joint commands.',
        unit='Hz', low=1.0, high=500.0,
    )
    disturbances: bool = parameter(
        True,
        'Whether the disturbances that training episodes ask for are executed; by twists alone.',
    )
    overview_width: int = parameter(
        320, 'Width of ~/overview/image_raw, drawn while subscribed.', unit='pixel',
        low=16, high=1280,
    )
    overview_height: int = parameter(
        240, 'Height of ~/overview/image_raw.', unit='pixel', low=16, high=960
    )


@dataclass(frozen=True)
class ExpertParameters:
    """Parameters of expert_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment it moves.')
    publish_instruction: bool = parameter(
        True, "Whether it publishes the episode's instruction."
    )


@dataclass(frozen=True)
class TeleopParameters:
    """Parameters of teleop_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment to move.')
    prefix: str = parameter(
        '',
        "Before the command topics. Empty: the arm's own, where no policy runs. teleop: those on "
        'which a policy_node is taken over.',
    )
    pad: str = parameter('xbox', 'Name (xbox, ps) or YAML file of the mapping of the gamepad.')
    keyboard: bool = parameter(False, 'Whether keys of the terminal are read too.')
    speed: float = parameter(
        0.3, "Share of the robot's speed limits at full deflection, at the start.",
        low=0.05, high=1.0,
    )
    dead_zone: float = parameter(
        0.1, 'Deflection of a stick that counts as none.', low=0.0, high=0.9
    )
    expo: float = parameter(
        0.5, 'How much finer sticks are near the middle; 0: linear, 1: cubic.', low=0.0, high=1.0
    )
    joy_timeout_s: float = parameter(
        0.3, 'A gamepad that is silent for so long is let go.', unit='s', low=0.05, high=5.0
    )
    key_timeout_s: float = parameter(
        0.2, 'A key counts for so long after it came last.', unit='s', low=0.05, high=2.0
    )
    recorder: str = parameter(
        'training_node', 'Node whose episode services buttons and keys call.'
    )


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of policy_node."""

    checkpoint: str = parameter(
        '',
        'Checkpoint folder; its embodiment names the topics. Set while the node serves, it is '
        'loaded beside the old one and takes its place, or is refused.',
        live=True,
    )
    mode: str = parameter(
        'act',
        "act: command the robot. shadow: only score another policy's actions, from ~/input/…, and "
        'have no command topics at all. inline: pass its actions on, through gate and guard.',
        choices=MODES,
    )
    min_margin: float = parameter(
        -2.0,
        "Mode inline: hold where the other policy's actions score so much below the mean of our "
        'own candidates; -2 lets everything pass.',
        low=-2.0, high=2.0,
    )
    device: str = parameter('auto', 'Torch device: auto, cpu, cuda, cuda:0 …')
    threads: int = parameter(
        0,
        'Torch threads on the CPU; 0 measures one against all cores at configure and keeps the '
        'better.',
        low=0, high=256,
    )
    act_on_arrival: bool = parameter(
        False,
        'Answer every complete observation with exactly one command that carries its stamp, '
        'instead of commanding at the control rate.',
    )
    candidates: int = parameter(
        1, "Action chunks drawn per decision; of several the verifier's best is taken.",
        low=1, high=1024,
    )
    seed: int = parameter(
        0, "Seed of the candidates' noise; decision n after an instruction repeats.",
        low=0, high=2**31,
    )
    execution: str = parameter(
        'newest',
        'Of chunks that overlap: the newest alone, the mean of all (ensemble), or the newest as a '
        'continuation of the plan under way (realtime).',
        choices=EXECUTIONS,
    )
    gate_enabled: bool = parameter(
        True, 'Whether a low alignment score slows and holds the arm.', name='gate.enabled'
    )
    gate_go: float = parameter(
        -1.0, "Score from which motion is free; below 0: the checkpoint's.", name='gate.go',
        low=-1.0, high=1.0,
    )
    gate_hold: float = parameter(
        -1.0, "Score under which the arm holds; below 0: the checkpoint's.", name='gate.hold',
        low=-1.0, high=1.0,
    )
    gate_help_s: float = parameter(
        3.0, 'The gate may hold for so long before a person is asked for help.',
        name='gate.help_s', unit='s', low=0.0, high=3600.0,
    )
    watchdog_s: float = parameter(
        0.0,
        "The arm holds when a source is older than this; 0: the embodiment's max_age_s, and 2 s "
        'without any command.',
        unit='s', low=0.0, high=60.0,
    )
    intervention_prefix: str = parameter(
        'teleop',
        "A person takes over on the robot's command topics under this prefix; empty: nobody can.",
    )
    intervention_timeout_s: float = parameter(
        0.5, 'A person who has been silent for so long has let go.',
        unit='s', low=0.05, high=60.0,
    )
    picture_hz: float = parameter(
        4.0, 'Pictures a second on ~/grounding/image, at most; 0: none.', unit='Hz',
        low=0.0, high=60.0,
    )
    status_period_s: float = parameter(
        1.0, 'Period of ~/status and /diagnostics while active; else it is 4 s or more.',
        unit='s', low=0.05, high=60.0,
    )
    autostart: bool = parameter(False, 'Configure and activate without a lifecycle manager.')
