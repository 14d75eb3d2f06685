"""The parameters of training_node, but for those of training itself: see `job_parameters`."""

from __future__ import annotations

from dataclasses import dataclass

from vla_alignment_ros.data.bag_storage import STORAGES
from vla_alignment_ros.nodes.parameters import parameter


@dataclass(frozen=True)
class TrainingParameters:
    """Parameters of training_node."""

    embodiment: str = parameter('tabletop', 'Name or YAML file of the embodiment to record.')
    folder: str = parameter('demonstrations', 'Folder that receives one bag per episode.')
    storage: str = parameter('mcap', 'Bag storage.', choices=tuple(STORAGES))
    zstd: bool = parameter(False, 'Whether bags are compressed.')
    split_bytes: int = parameter(
        0, 'A bag begins another file before one grows beyond this; 0: never.',
        unit='byte', low=0, high=2**50,
    )
    instruction: str = parameter(
        '', 'What the robot is told, as if it came on the instruction topic; empty: nothing.',
        live=True,
    )
    notes: tuple[str, ...] = parameter(
        (), 'key=value texts written into the next episode (task=pick).', live=True
    )
    queue_bytes: int = parameter(
        256 * 2**20, 'Messages waiting for the disk; beyond that they are dropped and counted.',
        unit='byte', low=2**20, high=2**40,
    )
    min_free_bytes: int = parameter(
        256 * 2**20,
        'With less room on the disk no episode begins, and a running one is finished.',
        unit='byte', low=0, high=2**50,
    )
    auto_enabled: bool = parameter(
        False, 'Whether episodes begin and end with the motion of the joints.',
        name='auto.enabled',
    )
    auto_speed: float = parameter(
        0.05,
        'Speed of any joint from which it moves; it rests under half of that.',
        name='auto.speed', unit='rad/s, or m/s where it slides', low=1e-6, high=100.0, live=True,
    )
    auto_idle_s: float = parameter(
        2.0, 'Rest, or silence of joint_states, that ends an episode.',
        name='auto.idle_s', unit='s', low=0.1, high=3600.0, live=True,
    )
    auto_min_s: float = parameter(
        1.0, 'An episode in which it moved for a shorter time is discarded.',
        name='auto.min_s', unit='s', low=0.0, high=3600.0, live=True,
    )
    auto_lead_s: float = parameter(
        0.5, 'An episode begins so long before the motion.',
        name='auto.lead_s', unit='s', low=0.0, high=60.0,
    )
    keep_last_s: float = parameter(
        0.0,
        'Messages kept in memory while no episode is recorded, for ~/save_last and for when the '
        'policy asks for help; 0: none.',
        unit='s', low=0.0, high=3600.0,
    )
    keep_last_bytes: int = parameter(
        256 * 2**20, 'Messages kept in memory at most; beyond that the oldest go.',
        unit='byte', low=2**20, high=2**40,
    )
    policy_node: str = parameter(
        'policy_node',
        'Policy node whose ~/status is listened to: what led to a request for help becomes a bag. '
        'Empty: none.',
    )
    help_interval_s: float = parameter(
        60.0, 'Requests for help make one bag in so long a time, at most.',
        unit='s', low=0.0, high=86400.0, live=True,
    )
    status_period_s: float = parameter(
        1.0, 'Period of ~/status and /diagnostics.', unit='s', low=0.05, high=60.0
    )
    autostart: bool = parameter(False, 'Configure and activate without a lifecycle manager.')
