"""What is wrong with an episode is found, said with numbers, and nothing else is."""

import shutil

from acted_recordings import Actor, START_NS
import numpy as np
import pytest
from recordings import PERIOD_NS, rewrite

from vla_alignment_ros import wire
from vla_alignment_ros.data.bag import EpisodeReader, EpisodeWriter
from vla_alignment_ros.data.bag_format import METADATA
from vla_alignment_ros.data.quality import EpisodeQuality, Finding, grade, Limits, Severity
from vla_alignment_ros.data.quality_episode import inspect_episode
from vla_alignment_ros.data.quality_folder import beside_the_others, unfinished
from vla_alignment_ros.data.relabel import apply_label, Label, plan_label
from vla_alignment_ros.errors import ConfigError

FRONT, WRIST, JOINTS, TWIST = 'front/image_raw', 'wrist', 'joint_states', 'cmd/twist'
TICKS = 40


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    """An episode with nothing wrong."""
    return Actor(tmp_path_factory.mktemp('clean')).record('clean', ticks=TICKS)[0]


def said(path, **limits):
    """(kind, severity, text) of what is found."""
    found = inspect_episode(path, Limits(**limits))
    return [(f.kind, f.severity.name, f.text) for f in found.findings]


def stamped(raw, msgtype, ts_ns):
    """The same message with another stamp."""
    assert wire.stamp_ns(raw, msgtype) is not None
    seconds, rest = divmod(ts_ns, 10**9)
    return raw[:4] + seconds.to_bytes(4, 'little') + rest.to_bytes(4, 'little') + raw[12:]


def on(topic, change):
    """A change of the messages of one topic: change(how-manieth, log_ns, raw)."""
    seen = []

    def changed(name, log_ns, raw):
        if name != topic:
            return log_ns, raw
        seen.append(raw)
        return change(len(seen) - 1, log_ns, raw)

    return changed


def picture(value):
    pixels = np.full((12, 16, 3), value, np.uint8)
    return lambda i, ts, raw: (ts, wire.encode_image(pixels, ts, 'front'))


def test_nothing_is_found_where_nothing_is_wrong(clean):
    found = inspect_episode(clean, Limits())
    assert found.findings == () and grade(found) == 'good' and found.usable
    assert found.measures['samples'] == TICKS
    assert found.measures['duration_s'] == pytest.approx(3.9)


IMAGE = 'sensor_msgs/msg/Image'
WRONG = {
    'a gap': (
        on(FRONT, lambda i, ts, raw: None if 10 <= i < 14 else (ts, raw)),
        ('rate', 'WARNING', 'front/image_raw: a gap of 0.50 s at 0.9 s (usual 0.100 s)'),
    ),
    'half the rate': (
        on(WRIST, lambda i, ts, raw: (ts, raw) if i % 2 == 0 else None),
        ('rate', 'WARNING', 'wrist comes at 5.0 Hz, the control rate is 10 Hz: samples repeat it'),
    ),
    'late arrival': (
        on(JOINTS, lambda i, ts, raw: (ts + 3 * 10**8, raw)),
        ('stamp', 'WARNING', 'joint_states arrives 0.30 s after its stamp'),
    ),
    'stamps from the future': (
        on(WRIST, lambda i, ts, raw: (ts, stamped(raw, IMAGE, ts + 10**8 if i else ts))),
        ('stamp', 'WARNING', 'wrist: 39 of 40 stamps lie after the arrival, by up to 0.10 s'),
    ),
    'repeated stamps': (
        on(WRIST, lambda i, ts, raw: (ts, stamped(raw, IMAGE, ts - i % 2 * PERIOD_NS))),
        ('stamp', 'WARNING', 'wrist: 20 of 40 messages have the stamp of the one before'),
    ),
    'some stamps unset': (
        on(FRONT, lambda i, ts, raw: (ts, stamped(raw, IMAGE, 0 if i < 3 else ts))),
        ('stamp', 'ERROR', 'front/image_raw: 3 of 40 messages have no stamp'),
    ),
    'no stamps at all': (
        on(FRONT, lambda i, ts, raw: (ts, stamped(raw, IMAGE, 0))),
        ('stamp', 'WARNING',
         'front/image_raw: 40 of 40 messages have no stamp; the time of arrival counts'),
    ),
    'a lid': (
        on(FRONT, picture(3)),
        ('image', 'ERROR', 'front: 100 % of the pictures are black (from 0.0 s on)'),
    ),
    'too much light': (
        on(FRONT, picture(255)),
        ('image', 'ERROR', 'front: 100 % of the pictures are white (from 0.0 s on)'),
    ),
    'a camera that stops': (
        on(FRONT, lambda i, ts, raw, first=[]: (
            first.append(raw) or (ts, raw) if i < 20 else
            (ts, stamped(first[-1], IMAGE, ts)))),
        ('image', 'ERROR',
         'front is frozen for 2.0 of 3.9 s while the robot moves (from 1.9 s on)'),
    ),
    'half a picture': (
        on(FRONT, lambda i, ts, raw: (ts, raw[:-40] if i == 5 else raw)),
        ('message', 'ERROR', 'front: 1 pictures cannot be read'),
    ),
    'joints without the gripper': (
        on(JOINTS, lambda i, ts, raw: (
            ts, wire.encode_joint_state(ts, ('a', 'b'), np.zeros(2)) if i == 7 else raw)),
        ('message', 'ERROR', '1 joint states lack a joint of the embodiment'),
    ),
    'a topic that is missing': (
        on(WRIST, lambda i, ts, raw: None),
        ('topic', 'ERROR', 'no wrist; there are'),
    ),
    'no words': (
        on('instruction', lambda i, ts, raw: (ts, wire.encode_string('  '))),
        ('instruction', 'ERROR', 'no instruction'),
    ),
    'other words': (
        on('instruction', lambda i, ts, raw: (ts, wire.encode_string('Push the ball'))),
        ('instruction', 'ERROR', '“push the ball” was said, the metadata has “pick up the red'),
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_is_found(clean, tmp_path, name):
    change, (kind, severity, text) = WRONG[name]
    path = rewrite(clean, tmp_path, change)
    if name == 'no words':
        forget_words(path)
    found = said(path)
    assert [f for f in found if f[:2] == (kind, severity) and f[2].startswith(text)], found
    assert {f[0] for f in found} <= {kind, 'sample', 'rate'}, found
    assert sum(f[0] == 'image' for f in found) <= 1, found


def with_words(path, root, texts):
    """The same episode where other words are said: log time in ns -> them."""
    reader = EpisodeReader(path)
    messages = [message for message in reader.messages() if message[0] != 'instruction']
    kind = 'std_msgs/msg/String'
    messages += [('instruction', kind, ts, wire.encode_string(said)) for ts, said in texts.items()]
    with EpisodeWriter(root, reader.info.embodiment) as writer:
        for topic, msgtype, ts_ns, raw in sorted(messages, key=lambda message: message[2]):
            writer.write(topic, msgtype, ts_ns, raw)
        writer.set_instruction(list(texts.values())[-1])
        return writer.finish(True)


def test_words_that_change_while_the_robot_acts_are_found_and_those_before_are_not(
    clean, tmp_path
):
    before = {START_NS - 2: 'push the ball', START_NS - 1: 'lift it'}
    assert said(with_words(clean, tmp_path / 'before', before)) == []
    within = {START_NS - 1: 'push the ball', START_NS + 5 * PERIOD_NS: 'lift it'}
    (found,) = said(with_words(clean, tmp_path / 'within', within))
    text = 'the instruction changes: “push the ball”, then “lift it”'
    assert found == ('instruction', 'WARNING', text)


def test_a_message_that_is_repeated_once_or_twice_is_nothing_to_tell(clean, tmp_path):
    def repeats(last):
        return on(
            WRIST,
            lambda i, ts, raw: (
                ts, stamped(raw, IMAGE, START_NS + min(i, TICKS - 1 - last) * PERIOD_NS)
            ),
        )  # fmt: skip

    assert said(rewrite(clean, tmp_path, repeats(2), 'twice')) == []
    found = said(rewrite(clean, tmp_path, repeats(3), 'thrice'))
    text = 'wrist: 3 of 40 messages have the stamp of the one before'
    assert ('stamp', 'WARNING', text) in found


def forget_words(path):
    file = path / METADATA
    file.write_text(file.read_text().replace('Pick up the red cube.', "''"))


def acted(root, act, moves=lambda tick: True, ticks=TICKS):
    actor = Actor(root, moves)
    before = actor.action
    actor.action = lambda tick, total: act(tick, before(tick, total))
    return actor.record(ticks=ticks)[0]


@pytest.mark.parametrize(
    'values, kind, text',
    [
        ({20: 1.4}, 'action', '2 jumps in the commands; the largest, dx by 1.1 in one step'),
        ({20: 1.4}, 'action', '1 of 40 commands leave the limits; dx by 0.4 m (first at 2.0 s)'),
        (dict.fromkeys(range(30, 40), 1.0), 'clipping', 'dx is at its limit in 25 %'),
    ],
)
def test_commands_that_jump_or_stay_at_a_limit_are_found(tmp_path, values, kind, text):
    def act(tick, action):
        action[0] = values.get(tick, action[0])
        return action

    found = said(acted(tmp_path, act))
    assert [f for f in found if f[0] == kind and f[2].startswith(text)], found
    assert {f[0] for f in found} <= {'action', 'clipping'}


@pytest.mark.parametrize(
    'moves, text',
    [
        (lambda tick: tick >= 20, 'idle for the first 1.9 s'),
        (lambda tick: tick < 20, 'idle for the last 1.7 s'),
        (lambda tick: tick < 8 or tick >= 35, 'a pause of 2.4 s at 1.0 s'),
        (lambda tick: False, 'nothing ever moves in 3.9 s'),
    ],
)
def test_idle_parts_are_found(tmp_path, moves, text):
    found = said(acted(tmp_path, lambda tick, action: action, moves))
    assert [f[2] for f in found if f[0] == 'idle'] == [text]
    assert {f[0] for f in found} == {'idle'}


def test_limits_say_what_is_still_fine(tmp_path):
    path = acted(tmp_path, lambda tick, action: action, lambda tick: tick >= 20)
    assert said(path, idle_s=2.0) == []
    with pytest.raises(ConfigError, match='idle_s must be 0 or more'):
        Limits(idle_s=float('nan'))


def test_a_short_episode_and_a_failed_one_are_told(tmp_path):
    path, _, _ = Actor(tmp_path).record(ticks=5, success=False)
    assert said(path) == [
        ('failed', 'INFO', 'marked as failed'), ('short', 'WARNING', '5 samples in 0.4 s')
    ]  # fmt: skip


@pytest.mark.parametrize(
    'there, text',
    [
        (lambda i: i < 20, 'joint_states is silent for the last 2.00 s'),
        (lambda i: i >= 8, 'joint_states comes only from 0.80 s on'),
    ],
)
def test_a_source_that_is_not_there_all_the_time_is_found(clean, tmp_path, there, text):
    path = rewrite(clean, tmp_path, on(JOINTS, lambda i, ts, raw: (ts, raw) if there(i) else None))
    assert text in [f[2] for f in said(path)]


def test_ticks_without_a_sample_are_counted(tmp_path):
    actor = Actor(tmp_path, max_age_s={'front': 0.15})
    path, _, _ = actor.record(ticks=TICKS)
    lossy = rewrite(path, tmp_path / 'lossy', on(
        FRONT, lambda i, ts, raw: (ts, raw) if i < 8 or i >= 20 else None
    ))  # fmt: skip
    texts = [f[2] for f in said(lossy) if f[1] == 'ERROR']
    assert '28 % of the ticks give no sample (front too old 11)' in texts
    assert any('a gap of 1.30 s at 0.7 s' in text and 'limit 0.15 s' in text for text in texts)


def test_a_relabelled_episode_does_not_contradict_itself(clean, tmp_path):
    path = rewrite(clean, tmp_path, lambda topic, ts, raw: (ts, raw))
    apply_label(plan_label(EpisodeReader(path).info, Label('push the ball')))
    assert said(path) == []


@pytest.mark.parametrize('damage', ['truncated', 'metadata', 'embodiment'])
def test_a_damaged_bag_is_a_finding_and_no_error(clean, tmp_path, damage):
    path = tmp_path / 'bag'
    shutil.copytree(clean, path)
    file = next(path.glob('*.mcap'))
    if damage == 'truncated':
        file.write_bytes(file.read_bytes()[:2000])
    else:
        text = (path / METADATA).read_text()
        text = '{' if damage == 'metadata' else text.replace('vla.embodiment', 'was.embodiment')
        (path / METADATA).write_text(text)
    found = inspect_episode(path, Limits())
    assert [f.kind for f in found.findings] == ['topic' if damage == 'embodiment' else 'damaged']
    assert grade(found) == 'error' and not found.usable


# -- beside the others --------------------------------------------------------------------------


def graded(path, **changes):
    return EpisodeQuality(path, 'lift it', usable=True, **changes)


def test_copies_are_found_and_two_labels_of_one_recording_too(tmp_path):
    a, b, c = (graded(tmp_path / n, digest=d) for n, d in (('a', 'x'), ('b', 'x'), ('c', 'y')))
    found = beside_the_others([a, b, c], Limits())
    assert [[f.text for f in e.findings] for e in found] == [[], ['the same recording as a'], []]
    other = graded(tmp_path / 'b', digest='x')
    found = beside_the_others([a, EpisodeQuality(other.path, 'push it', digest='x')], Limits())
    assert [f.text for f in found[0].findings] == ['b, the same recording, says “push it”']
    assert grade(found[0]) == grade(found[1]) == 'error'


def test_outliers_need_others_of_the_same_task(tmp_path):
    rng = np.random.default_rng(0)
    some = [
        graded(tmp_path / f'{i}', task='pick', measures={'duration_s': 5 + rng.normal(0, 0.3)})
        for i in range(12)
    ]
    odd = graded(tmp_path / 'odd', task='pick', measures={'duration_s': 11.0})
    alone = graded(tmp_path / 'alone', task='push', measures={'duration_s': 30.0})
    found = beside_the_others([*some, odd, alone], Limits())
    flagged = [e.name for e in found if e.findings]
    assert flagged == ['odd']
    assert found[-2].findings[0].text.startswith('lasts 11.0 s; the others about 5')
    assert not any(e.findings for e in beside_the_others([*some[:6], odd], Limits()))


def test_recordings_without_an_end_are_named(embodiment, recorder):
    path, _, _ = recorder.record('whole')
    lost = recorder.root / 'lost'
    shutil.copytree(path, lost)
    (lost / METADATA).unlink()
    shutil.copytree(lost, recorder.root / '.cut.partial' / 'cut')
    shutil.copytree(lost, recorder.root / '.mine' / 'cut')
    with EpisodeWriter(recorder.root, embodiment, 'now') as writer:
        writer.write('instruction', 'std_msgs/msg/String', 1, wire.encode_string('lift it'))
        found = unfinished([recorder.root])
    grades = {'.cut.partial': 'error', 'lost': 'error', '.now.partial': 'warning'}
    assert {e.name: grade(e) for e in found} == grades
    listed = recorder.root / 'some.txt'
    listed.write_text('whole\n')
    assert unfinished([path, listed]) == []


def test_a_kind_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match='unknown kind'):
        Finding('odd', Severity.INFO, '')


def test_the_first_moment_of_a_simulated_clock_is_a_stamp(clean, tmp_path):
    def sooner(topic, ts, raw):
        log_ns = ts - START_NS
        types = {FRONT: IMAGE, WRIST: IMAGE, JOINTS: 'sensor_msgs/msg/JointState',
                 TWIST: 'geometry_msgs/msg/TwistStamped'}  # fmt: skip
        return log_ns, stamped(raw, types[topic], log_ns) if topic in types else raw

    assert said(rewrite(clean, tmp_path, sooner)) == []
