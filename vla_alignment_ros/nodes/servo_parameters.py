"""The parameters of servo_node."""

from __future__ import annotations

from dataclasses import dataclass

from vla_alignment_ros.control.joint_commands import INTERFACES, TRAJECTORY, VELOCITY
from vla_alignment_ros.control.servo import ServoConfig
from vla_alignment_ros.nodes.parameters import parameter

# where a servoed gripper is commanded: by a controller of its own, as the last joint of the arm's,
# or not by the servo
OWN, WITH_ARM, NONE = GRIPPERS = ('own', 'with_arm', 'none')


@dataclass(frozen=True)
class ServoParameters:
    """Parameters of servo_node."""

    embodiment: str = parameter(
        'tabletop', 'Name or YAML file of the embodiment; it commands ee_delta.'
    )
    urdf: str = parameter(
        '', "URDF of the robot (package://… or a path); empty: the embodiment's."
    )
    output: str = parameter(
        TRAJECTORY,
        'How joints are commanded: as trajectories of one point, or as positions or velocities '
        'for a forward controller.',
        choices=INTERFACES,
    )
    gripper: str = parameter(
        OWN,
        'How the gripper joint is commanded: by its own controller, as the last joint of the '
        "arm's (with_arm), or not from here (none).",
        choices=GRIPPERS,
    )
    rate_hz: float = parameter(100.0, 'Commands a second.', unit='Hz', low=1.0, high=1000.0)
    command_timeout_s: float = parameter(
        0.1, 'The arm comes to rest without a twist for so long.', unit='s', low=0.01, high=10.0
    )
    state_timeout_s: float = parameter(
        0.2, 'Likewise without joint states.', unit='s', low=0.01, high=10.0
    )
    max_linear_m_s: float = parameter(
        0.5, 'A faster twist is slowed, its direction kept.', unit='m/s', low=0.001, high=10.0
    )
    max_angular_rad_s: float = parameter(
        2.5, 'A faster turn is slowed likewise.', unit='rad/s', low=0.001, high=20.0
    )
    velocity_scale: float = parameter(
        1.0, "Share of the URDF's joint velocities that may be used.", low=0.01, high=1.0
    )
    acceleration: tuple[float, ...] = parameter(
        (5.0,), 'Highest joint acceleration: one for all joints, or one a joint.',
        unit='rad/s^2', low=0.01, high=1000.0,
    )
    position_margin: float = parameter(
        0.05, "Kept from both ends of every joint's range.", unit='rad', low=0.0, high=3.0
    )
    singularity_slow: float = parameter(
        17.0, "The Jacobian's condition number from which what leads nearer is slowed.",
        name='singularity.slow', low=1.0, high=1e6,
    )
    singularity_stop: float = parameter(
        30.0, 'The condition number from which it is stopped.', name='singularity.stop',
        low=1.0, high=1e6,
    )
    max_lead: float = parameter(
        0.2, 'An arm that is further from where it is commanded does not follow: it is stopped.',
        unit='rad', low=0.001, high=10.0,
    )
    status_period_s: float = parameter(
        1.0, 'Period of ~/status and /diagnostics.', unit='s', low=0.05, high=60.0
    )
    autostart: bool = parameter(False, 'Configure and activate without a lifecycle manager.')

    def config(self) -> ServoConfig:
        """How to servo, without topics."""
        return ServoConfig(
            rate_hz=self.rate_hz,
            command_timeout_s=self.command_timeout_s,
            state_timeout_s=self.state_timeout_s,
            max_linear_m_s=self.max_linear_m_s,
            max_angular_rad_s=self.max_angular_rad_s,
            velocity_scale=self.velocity_scale,
            acceleration=self.acceleration,
            position_margin=self.position_margin,
            slow_condition=self.singularity_slow,
            stop_condition=self.singularity_stop,
            max_lead=self.max_lead,
            corrects=self.output == VELOCITY,
        )
