"""A robot sees, is told what to do, and moves, and knows when the words do not match the scene.

One room, one job; a room imports only rooms above it in this list:

    errors        what a user can mend
    resources     where the files that come with the package are
    fields        typed values from YAML
    calibration   where a fixed camera is and how it projects
    embodiment    what is particular to one robot (YAML)
    pixels        image encodings → RGB, and sizes
    samples       what messages say, as numpy
    wire          CDR bytes ↔ numpy: the one path for live messages, bags and commands
    kinematics    where the hand is, from the URDF
    observation   raw messages → Observation, the same live and in training
    control       command codecs, observation buffer, action guard, gate, executor, servo
    data          episodes as rosbags or LeRobot folders → training samples
    encoders      vision, language, state and action towers
    alignment     strategies that align them, and their losses
    policy        action head, verifier, checkpoint, and the policy that runs them
    training      from a folder of bags to a checkpoint
    sim           the table, its tasks and the scripted expert (MuJoCo)
    evaluation    closed loop and alignment: results, intervals, pictures, reports
    nodes         ROS 2 nodes; the only room that imports rclpy
    cli           vla_demo, vla_train, vla_evaluate, vla_bag

How a decision is made: camera images, joint states and the instruction arrive as CDR bytes; an
`Observation` is assembled as-of one instant; the policy encodes it, scores how well the words fit
the scene (vision–language alignment), proposes candidate action chunks, and its verifier picks
the one that best does what was said; the gate and the guard decide whether it may move.
"""

__version__ = '0.1.0'
