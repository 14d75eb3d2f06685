"""Between the policy's numbers and the robot: buffer, guard, gate, executor, codecs and servo.

Plain numpy, and daqp, which solves for the servo: no torch, no rclpy. Everything here is given its
time, never asks a clock.
"""
