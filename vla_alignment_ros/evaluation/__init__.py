"""Closed-loop evaluation: rollouts, rates with their intervals, films and a report."""
