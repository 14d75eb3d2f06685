"""Pictures of where the words look: only for those who look, and never in the way."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tabletop_robot import moves, NODE, PATIENCE_S, start, STEP, T0

from vla_alignment_ros import wire
from vla_alignment_ros.control.preview import ChunkPreview
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.nodes import pictures
from vla_alignment_ros.nodes.pictures import MARKERS_TOPIC, PICTURE_TOPIC

TOPIC = NODE + PICTURE_TOPIC[1:]
MARKERS = NODE + MARKERS_TOPIC[1:]
IMAGE = 'sensor_msgs/msg/Image'


def test_a_subscriber_gets_a_picture_stamped_as_its_decision(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True, picture_hz=60.0)
    inbox = ros.listen(TOPIC, IMAGE)
    ros.until(lambda: node._pictures.wanted(PICTURE_TOPIC), 'the subscription')
    robot.say('pick up the red cube')
    robot.show(T0)
    assert moves(robot.twist(T0))
    frame = wire.decode_image(inbox.wait_for(lambda raws: raws and raws[0]))
    assert frame.ts_ns == T0
    assert min(frame.image.shape[:2]) >= 2 * 256  # two cameras, one under the other
    assert np.ptp(frame.image) > 200
    ros.until(lambda: node._serving.key_values()['pictures'] == '1', 'the count')


def test_nobody_who_looks_means_no_picture_and_no_maps(ros, checkpoint, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, 'grounding_picture', lambda *args: drawn.append(args))
    monkeypatch.setattr(ChunkPreview, 'markers', lambda *args: drawn.append(args))
    robot, node = start(ros, checkpoint, act_on_arrival=True, picture_hz=60.0)
    robot.say()
    for step in range(3):
        robot.show(T0 + step * STEP)
        robot.twist(T0 + step * STEP)
    ros.until(lambda: node._loop.decisions == 3, 'the end of the decision')
    assert not node._loop.verdict.grounding
    assert drawn == []


def test_a_subscriber_sees_where_the_chunk_leads(ros, checkpoint):
    robot, node = start(ros, checkpoint, act_on_arrival=True)
    chunks = ros.listen(f'{NODE}/action_chunk', 'trajectory_msgs/msg/JointTrajectory', raw=False)
    inbox = ros.listen(MARKERS, pictures.MARKER_ARRAY, raw=False)
    ros.until(lambda: node._pictures.wanted(MARKERS_TOPIC), 'the subscription')
    robot.say('pick up the red cube')
    robot.show(T0)
    line, steps, words = inbox.wait_for(lambda seen: seen and seen[0]).markers
    stamp = line.header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec == T0
    assert line.header.frame_id == 'base_link'
    chunk = chunks.wait_for(lambda seen: seen and seen[0])
    moved = sum(point.positions[2] for point in chunk.points)
    assert line.points[-1].z - line.points[0].z == pytest.approx(moved, abs=1e-6)
    assert len(steps.points) == len(steps.colors) == len(chunk.points)
    assert words.text.startswith('pick up the red cube\n')


def test_decisions_and_state_queries_go_on_while_a_picture_is_drawn(
    ros, checkpoint, monkeypatch
):
    drawing, done = threading.Event(), threading.Event()
    draw = pictures.grounding_picture

    def slow(*args):
        drawing.set()
        assert done.wait(PATIENCE_S)
        return draw(*args)

    monkeypatch.setattr(pictures, 'grounding_picture', slow)
    robot, node = start(ros, checkpoint, act_on_arrival=True, picture_hz=60.0)
    inbox = ros.listen(TOPIC, IMAGE)
    ros.until(lambda: node._pictures.wanted(PICTURE_TOPIC), 'the subscription')
    robot.say()
    robot.show(T0)
    assert drawing.wait(PATIENCE_S)
    for step in range(1, 4):
        robot.show(T0 + step * STEP)
        assert moves(robot.twist(T0 + step * STEP))
    assert ros.state(NODE) == 'active'
    assert inbox.messages == []
    done.set()
    assert wire.decode_image(inbox.wait_for(lambda raws: raws and raws[0])).ts_ns == T0


def test_a_picture_that_cannot_be_drawn_costs_no_decision(ros, checkpoint, monkeypatch):
    def broken(*args):
        raise ValueError('no such colour')

    monkeypatch.setattr(pictures, 'grounding_picture', broken)
    robot, node = start(ros, checkpoint, act_on_arrival=True, picture_hz=60.0)
    ros.listen(TOPIC, IMAGE)
    ros.until(lambda: node._pictures.wanted(PICTURE_TOPIC), 'the subscription')
    robot.say()
    for step in range(3):
        robot.show(T0 + step * STEP)
        assert moves(robot.twist(T0 + step * STEP))
    assert node._loop.causes.snapshot() == {}


def test_pictures_come_no_faster_than_asked(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pictures.time, 'monotonic', lambda: now[0])
    looked = {pictures.PICTURE_TOPIC: True, pictures.MARKERS_TOPIC: False}
    tabletop = Embodiment.load('tabletop')
    made = pictures.Pictures(tabletop, 4.0, looked.__getitem__, lambda raw: None, print)
    monkeypatch.setattr(made, '_draw', lambda *args: None)

    class Verdict:
        grounding = {'0:red': {}}
        refused = None

    def drawn() -> bool:
        """Whether the picture of this moment was due, and the thread is free again."""
        if not made.due():
            return False
        made.offer(None, Verdict(), None)
        with made._drawing:
            return True

    taken = []
    for _ in range(20):
        taken.append(drawn())
        now[0] += 0.125
    assert taken == [True, False] * 10
    looked[pictures.PICTURE_TOPIC] = False
    assert not made.due()
    made.close()
    never = pictures.Pictures(tabletop, 0.0, lambda topic: True, lambda raw: None, print)
    assert not never.due()
