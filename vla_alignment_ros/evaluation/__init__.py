"""Evaluation: rollouts with films and intervals, and what words and pictures mean to a model."""
