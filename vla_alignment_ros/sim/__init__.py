"""The table-top simulation: scene, tasks, scripted expert and headless recording.

`spec` says what an episode is, `tasks` draws one from a seed, `scene` turns it into a MuJoCo
model, `world` steps and judges it, `expert` solves it, `stream` turns it into ROS messages and
`record` writes demonstrations without ROS.
"""
