"""The ROS 2 nodes: parameters in, callbacks to pure objects, messages out.

This is the only room that imports rclpy. Every subscription is raw: the bytes that arrive are the
bytes that are recorded, and they are decoded (by `wire`) only when somebody needs them.

=================  =================================================================
policy_node        acts: cameras, joint states and an instruction to commands
training_node      records: every topic of the embodiment, one bag per episode
servo_node         servoes: twists to joint commands, for arms without MoveIt Servo
simulator_node     the simulated table top behind the topics of a real robot
expert_node        the scripted teleoperator, for demonstrations in the simulator
=================  =================================================================
"""
