"""Between the policy's numbers and the robot: buffer, guard, gate, executor and codecs.

Plain numpy: no torch, no rclpy. Everything here is given its time, never asks a clock.
"""
