"""Another policy's actions: which of them belong to a scene, and what a low score does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from vla_alignment_ros.control.codecs import encode_chunk, make_codec
from vla_alignment_ros.control.decisions import PipelineConfig
from vla_alignment_ros.control.pipeline import DecisionPipeline
from vla_alignment_ros.control.shadow import InlinePolicy, OtherPolicy, ShadowVerifier
from vla_alignment_ros.embodiment import Embodiment
from vla_alignment_ros.errors import ConfigError, ControlError
from vla_alignment_ros.observation import ActionChunk, Observation

STEP_NS = 100_000_000
H = 4
EMBODIMENT = Embodiment.load('tabletop')


def actions(first, count):
    """Step n moves by n mm along x, so that a step is known by its value."""
    rows = np.zeros((count, 7), np.float32)
    rows[:, 0] = 1e-3 * (first + np.arange(count))
    rows[:, 6] = 1.0
    return rows


def chunk(step, count=H, rate_hz=10.0, **changes):
    """What the other policy wants from control step `step` on, as bytes."""
    plan = ActionChunk(step * STEP_NS, actions(step, count), rate_hz)
    return encode_chunk(EMBODIMENT, replace(plan, **changes))


def steps_of(rows):
    return [] if rows is None else np.round(rows[:, 0] * 1e3).astype(int).tolist()


def observation(step, instruction='pick up the red cube'):
    state = np.zeros(17, np.float32)
    state[7] = 0.8
    state[8:11] = (0.5, 0.0, 0.2)
    state[11], state[15] = 1.0, 1.0
    return Observation(step * STEP_NS, {}, state, instruction)


@dataclass
class Answer:
    chunk: ActionChunk
    vl_score: float
    action_score: float = 0.1
    margin: float = 0.0
    latency_s: float = 0.0


class Judge:
    """Notes what it was asked; answers with scores that the test sets."""

    horizon = H

    def __init__(self, score=0.9, margin=0.0):
        self.score, self.margin = score, margin
        self.asked = []

    def judge(self, observation, actions, candidates=1, seed=None):
        step = observation.ts_ns // STEP_NS
        self.asked.append((step, steps_of(actions), candidates, seed))
        judged = ActionChunk(observation.ts_ns, actions[:H], 10.0, observation.instruction)
        return Answer(judged, self.score, margin=self.margin)


# -- what is wanted -----------------------------------------------------------------------------


@given(
    begin=st.integers(0, 1000), count=st.integers(1, 20), at=st.integers(0, 1030),
    shift_ns=st.integers(-STEP_NS // 2 + 1, STEP_NS // 2 - 1),
)  # fmt: skip
def test_of_a_chunk_the_steps_from_a_moment_on_are_left(begin, count, at, shift_ns):
    other = OtherPolicy(EMBODIMENT)
    assert other.ahead(at * STEP_NS) is None
    other.take_chunk(chunk(begin, count))
    left = steps_of(other.ahead(at * STEP_NS + shift_ns))
    assert left == (list(range(at, begin + count)) if at >= begin else [])


@given(
    first=st.integers(1, 1000), count=st.integers(1, 12), at=st.integers(0, 1020),
    jitter=st.integers(-STEP_NS // 3, STEP_NS // 3),
)  # fmt: skip
def test_of_a_stream_the_steps_since_a_moment_are_known(first, count, at, jitter):
    other = OtherPolicy(EMBODIMENT)
    for n in range(first, first + count):
        other.take_command(n * STEP_NS + jitter * (-1) ** n, actions(n, 1)[0])
    expected = list(range(at, first + count)) if at >= first else []
    assert steps_of(other.since(at * STEP_NS)) == expected


def test_a_gap_in_a_stream_ends_what_is_known():
    other = OtherPolicy(EMBODIMENT)
    for n in (10, 11, 13, 14):
        other.take_command(n * STEP_NS, actions(n, 1)[0])
    assert steps_of(other.since(10 * STEP_NS)) == [10, 11]
    assert steps_of(other.since(13 * STEP_NS)) == [13, 14]


def test_a_command_said_again_counts_once_and_time_that_runs_backwards_starts_anew():
    other = OtherPolicy(EMBODIMENT)
    for n in (10, 11, 11):
        other.take_command(n * STEP_NS, actions(n, 1)[0])
    assert steps_of(other.since(10 * STEP_NS)) == [10, 11]
    other.take_command(3 * STEP_NS, actions(3, 1)[0])
    assert steps_of(other.since(3 * STEP_NS)) == [3]
    assert other.since(10 * STEP_NS) is None
    other.forget()
    assert other.since(3 * STEP_NS) is None and other.newest(3 * STEP_NS, 1.0) is None


def test_a_command_counts_until_it_is_too_old_and_no_longer():
    other = OtherPolicy(EMBODIMENT)
    other.take_command(10 * STEP_NS, actions(10, 1)[0])
    for late, left in ((-1, 3), (0, 3), (1, 2), (2, 1)):
        assert steps_of(other.newest((10 + late) * STEP_NS, 0.2)) == [10] * left
    assert other.newest(12 * STEP_NS + 1, 0.2) is None


@pytest.mark.parametrize(
    ('raw', 'message'),
    [
        (chunk(10, rate_hz=5.0), 'resample'),
        (chunk(10, actions=np.full((2, 7), np.nan, np.float32)), 'not finite'),
        (encode_chunk(
            replace(EMBODIMENT, action=replace(EMBODIMENT.action, frame='tool0')),
            ActionChunk(STEP_NS, actions(1, H), 10.0)), 'frame'),
        (encode_chunk(
            replace(EMBODIMENT, action=replace(EMBODIMENT.action, names=tuple('abcdefg'))),
            ActionChunk(STEP_NS, actions(1, H), 10.0)), 'names'),
    ],
)  # fmt: skip
def test_what_means_another_motion_is_refused_and_changes_nothing(raw, message):
    other = OtherPolicy(EMBODIMENT)
    other.take_chunk(chunk(10))
    with pytest.raises(ControlError, match=message):
        other.take_chunk(raw)
    assert steps_of(other.ahead(10 * STEP_NS)) == [10, 11, 12, 13]
    with pytest.raises(ControlError, match='finite'):
        other.take_command(STEP_NS, np.full(7, np.inf))


# -- beside it ----------------------------------------------------------------------------------


def test_a_chunk_is_judged_against_the_newest_scene_that_it_has_steps_for():
    judge, other = Judge(), OtherPolicy(EMBODIMENT)
    shadow = ShadowVerifier(other, judge, candidates=3, seed=5)
    assert shadow.judge() is None
    shadow.see(observation(10))
    assert shadow.judge() is None  # nobody wants anything yet
    other.take_chunk(chunk(10, 2 * H))
    found = shadow.judge()
    assert judge.asked == [(10, [10, 11, 12, 13], 3, 5)]  # no more than H
    assert (found.steps, found.vl_score, found.chunk.ts_ns) == (H, 0.9, 10 * STEP_NS)
    assert shadow.judge() is None  # nothing is new
    shadow.see(observation(16))
    assert shadow.judge().steps == 2
    assert judge.asked[-1] == (16, [16, 17], 3, 6)
    other.take_chunk(chunk(16))
    assert shadow.judge().steps == H
    shadow.see(observation(30))  # later than any step of it: the scene before is still the one
    assert shadow.judge() is None


def test_a_stream_is_judged_once_it_has_gone_on_for_a_chunk():
    judge, other = Judge(), OtherPolicy(EMBODIMENT)
    shadow = ShadowVerifier(other, judge)
    for n in range(10, 20):
        shadow.see(observation(n))
        other.take_command(n * STEP_NS, actions(n, 1)[0])
        shadow.judge()
    assert [asked[:2] for asked in judge.asked] == [
        (n, [n, n + 1, n + 2, n + 3]) for n in range(10, 17)
    ]


def test_a_stream_may_be_judged_sooner_on_fewer_steps():
    judge, other = Judge(), OtherPolicy(EMBODIMENT)
    shadow = ShadowVerifier(other, judge, min_steps=2)
    for n in (10, 11):
        shadow.see(observation(n))
        other.take_command(n * STEP_NS, actions(n, 1)[0])
    assert shadow.judge().steps == 2
    assert judge.asked[0][:2] == (10, [10, 11])


def test_other_words_make_old_scenes_worthless():
    judge, other = Judge(), OtherPolicy(EMBODIMENT)
    shadow = ShadowVerifier(other, judge, min_steps=2)
    shadow.see(observation(10))
    shadow.see(observation(11, 'push the blue ball'))
    other.take_command(10 * STEP_NS, actions(10, 1)[0])
    other.take_command(11 * STEP_NS, actions(11, 1)[0])
    assert shadow.judge() is None
    other.take_command(12 * STEP_NS, actions(12, 1)[0])
    assert shadow.judge().chunk.instruction == 'push the blue ball'


@pytest.mark.parametrize('settings', [{'candidates': 0}, {'min_steps': 0}, {'min_steps': H + 1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        ShadowVerifier(OtherPolicy(EMBODIMENT), Judge(), **settings)


# -- before the robot ---------------------------------------------------------------------------


def inline(judge, **settings):
    """A pipeline that runs the other policy's actions, and where those are taken."""
    other = OtherPolicy(EMBODIMENT)
    config = PipelineConfig(go=0.6, hold=0.3, confirm=1, dwell=1)
    policy = InlinePolicy(other, judge, **settings)
    pipeline = DecisionPipeline(EMBODIMENT, policy, config)
    return other, pipeline


def test_what_the_other_wants_goes_out_within_the_limits():
    other, pipeline = inline(Judge())
    with pytest.raises(ControlError, match='says nothing'):
        pipeline.decide(observation(9))  # and begins: what was wanted before it counts no more
    wild = actions(10, H)
    wild[:, 1] = 5.0  # metres in a step
    other.take_chunk(chunk(10, actions=wild))
    verdict = pipeline.decide(observation(10))
    assert verdict.gate == 'go' and verdict.refused is None
    command = pipeline.command(10 * STEP_NS)
    sent = make_codec(EMBODIMENT).decode(command.messages)
    assert command.clipped
    assert 0.0 < sent[1] <= EMBODIMENT.action.max_velocity[1] / EMBODIMENT.rate_hz + 1e-6


def test_a_low_score_holds_whatever_the_other_wants():
    judge = Judge(score=0.1)
    other, pipeline = inline(judge)
    with pytest.raises(ControlError):
        pipeline.decide(observation(9))
    for step in (10, 11):
        other.take_chunk(chunk(step))
        assert pipeline.decide(observation(step)).gate == 'hold'
        command = pipeline.command(step * STEP_NS)
        assert command.state == 'hold' and not command.action[:6].any()
    judge.score = 0.9
    other.take_chunk(chunk(12))
    pipeline.decide(observation(12))
    assert pipeline.command(12 * STEP_NS).action[:6].any()


def test_actions_that_fit_far_worse_than_our_own_are_not_passed_on():
    judge = Judge(margin=-0.4)
    other = OtherPolicy(EMBODIMENT)
    policy = InlinePolicy(other, judge, min_margin=-0.3)
    other.take_chunk(chunk(10))
    with pytest.raises(ControlError, match=r'worse than our own by 0\.40'):
        policy.step(observation(10))
    judge.margin = -0.2
    assert steps_of(policy.step(observation(10)).chunk.actions) == [10, 11, 12, 13]


def test_a_stream_goes_through_and_its_end_is_silence():
    other = OtherPolicy(EMBODIMENT)
    policy = InlinePolicy(other, Judge())
    other.take_command(10 * STEP_NS, actions(10, 1)[0])
    assert steps_of(policy.step(observation(10)).chunk.actions) == [10, 10, 10]
    assert steps_of(policy.step(observation(12)).chunk.actions) == [10]
    with pytest.raises(ControlError, match='says nothing'):
        policy.step(observation(13))


def test_what_was_wanted_before_a_reset_is_not_wanted_after_it():
    other, pipeline = inline(Judge())
    other.take_chunk(chunk(10))
    pipeline.reset()
    with pytest.raises(ControlError, match='says nothing'):
        pipeline.decide(observation(10))


def test_an_inline_policy_refuses_what_only_acting_policies_can():
    policy = InlinePolicy(OtherPolicy(EMBODIMENT), Judge())
    for asked in ({'grounding': True}, {'plan': object()}):
        with pytest.raises(ConfigError):
            policy.step(observation(10), **asked)
