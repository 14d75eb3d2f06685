"""LeRobot folders of others become episodes of a robot; broken ones are named."""

from dataclasses import replace
import json
import pickle

from lerobot_folders import foreign_embodiment, foreign_keys, FPS, KEYS, picture, write_foreign
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_alignment_ros.data.dataset import load_dataset
from vla_alignment_ros.data.episode import read_episode
from vla_alignment_ros.data.lerobot.export import export_lerobot
from vla_alignment_ros.data.lerobot.keys import LeRobotKeys
from vla_alignment_ros.data.lerobot.to_bags import import_bags
from vla_alignment_ros.data.source import find_sources, open_episode
from vla_alignment_ros.embodiment import Camera
from vla_alignment_ros.errors import ConfigError, DatasetError

DATA = 'data/chunk-000/file-000.parquet'
EPISODES = 'meta/episodes/chunk-000/file-000.parquet'
CAMERA = 'videos/observation.images.top'
FILE, BEGIN = f'{CAMERA}/file_index', f'{CAMERA}/from_timestamp'
VIDEO = f'{CAMERA}/chunk-000/file-000.mp4'


def read_all(root):
    return [read_episode(episode) for episode in find(root)]


def find(root, embodiment=None, keys=None):
    return find_sources([f'lerobot:{root}'], embodiment or foreign_embodiment(),
                        keys or foreign_keys())[0]  # fmt: skip


def change_info(root, change):
    path = root / 'meta' / 'info.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def change_table(path, **columns):
    """Replace columns, or remove them with None."""
    table = pq.read_table(path)
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.remove_column(index)
        if values is not None:
            table = table.add_column(index, name, pa.array(values))
    pq.write_table(table, path)


@pytest.fixture(scope='session')
def written(tmp_path_factory):
    """A folder of videos and its values; not to be changed."""
    root = tmp_path_factory.mktemp('foreign') / 'set'
    return root, write_foreign(root)


@pytest.fixture
def foreign(tmp_path):
    """A folder of videos of this test alone."""
    write_foreign(tmp_path / 'set')
    return tmp_path / 'set'


# -- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['video', 'image'])
def test_frames_of_a_folder_are_the_samples_of_the_robot(tmp_path, kind):
    values = write_foreign(tmp_path / 'set', kind=kind)
    episodes = find(tmp_path / 'set')
    assert len(episodes) == 3
    for number, (episode, (state, action)) in enumerate(zip(episodes, values)):
        data = read_episode(episode)
        count = len(state)
        assert len(data.index) == count
        assert data.index.dropped == {}
        wide = np.full((count, 4), 0.25)
        expected = np.column_stack(
            [0.5 * action[:, 0], action[:, 1], wide, 0.01 * state[:, 2].astype(np.float64)]
        ).astype(np.float32)
        np.testing.assert_allclose(data.index.actions, expected, rtol=1e-7)
        np.testing.assert_allclose(data.state[:, 0], 0.5 * state[:, 0])
        np.testing.assert_allclose(data.state[:, 1], state[:, 1] - 1.0, rtol=1e-6)
        assert (data.state[:, 2:6] == 0).all()
        np.testing.assert_allclose(data.state[:, 6], 1 - 0.01 * state[:, 2], rtol=1e-5)
        assert set(data.instructions) == {f'do {number % 2}'}
        times = (data.index.ticks_ns - data.index.ticks_ns[0]) * 1e-9
        np.testing.assert_allclose(times, np.arange(count) / FPS, atol=1e-7)
        pictures = np.stack([picture(number, t) for t in range(count)]).astype(float)
        error = np.abs(data.images['front'] - pictures)
        assert error.max() <= (0 if kind == 'image' else 12)
        assert error.mean() < 2  # the frame before has 9 more in red


def test_an_episode_opens_by_its_number(written):
    root, values = written
    episode = open_episode(f'lerobot:{root}/episode_000002', foreign_embodiment(), foreign_keys())
    assert episode.info.message_counts['cmd'] == 6
    assert episode.info.name == 'episode_000002'
    assert (episode.info.success, episode.info.extra) == (None, {})
    with pytest.raises(DatasetError, match='has the episodes 0 to 2'):
        open_episode(f'lerobot:{root}/episode_000003', foreign_embodiment())
    with pytest.raises(DatasetError, match='write lerobot:FOLDER/episode_000012'):
        open_episode(f'lerobot:{root}', foreign_embodiment())


def with_interventions(root, values):
    change_info(root, lambda data: data['features'].update(
        intervention={'dtype': 'bool', 'shape': [1], 'names': None}))  # fmt: skip
    table = pq.read_table(root / DATA).append_column('intervention', pa.array(values))
    pq.write_table(table, root / DATA)


def test_moments_in_which_a_person_had_taken_over_are_corrections(foreign):
    """As the strategy DAgger of lerobot-rollout records them."""
    values = np.arange(18) % 7 > 3
    with_interventions(foreign, values)
    episodes = read_all(foreign)
    assert (np.concatenate([e.index.correction for e in episodes]) == values).all()
    topics = [topic for topic, *_ in find(foreign)[1].messages(['/intervention'])]
    assert topics == ['intervention'] * 3  # where it changes


def test_interventions_that_are_no_yes_or_no_are_not_guessed_at(foreign):
    change_info(foreign, lambda data: data['features'].update(
        intervention={'dtype': 'float32', 'shape': [1], 'names': None}))  # fmt: skip
    assert not any(e.index.correction.any() for e in read_all(foreign))
    with_interventions(foreign, ['yes'] * 18)
    with pytest.raises(DatasetError, match="'intervention' holds string, which is no number"):
        read_all(foreign)


def test_only_what_is_asked_for_is_read_and_stamps_cost_no_decoding(written, monkeypatch):
    root, _ = written
    (episode, *_) = find(root)
    monkeypatch.setattr('vla_alignment_ros.data.lerobot.reader.read_frames', None)
    heads = list(episode.heads(foreign_embodiment().topics()))
    assert [t for t, *_ in heads].count('front') == 5
    assert {t for t, *_ in episode.messages(['cmd', '/joint_states'])} == {'cmd', 'joint_states'}


def test_an_episode_goes_to_another_process_by_name(written):
    episode = find(written[0])[1]
    copy = pickle.dumps(episode)
    assert len(copy) < 10_000  # not the tables
    assert list(pickle.loads(copy).messages()) == list(episode.messages())  # noqa: S301


def test_training_samples_come_from_a_folder_as_from_bags(tmp_path, recorder):
    """The same arrays, the same split; only the images have been through a codec."""
    for i in range(5):
        recorder.record(f'ep{i}', ticks=4 + i, instruction=f'Do {i % 2}.', success=i != 3)
    out = tmp_path / 'out'
    bags = find_sources([recorder.root])[0]
    export_lerobot(bags, out, recorder.embodiment, progress=False)
    options = {'horizon': 3, 'val_fraction': 0.3, 'progress': False}
    was = load_dataset([recorder.root], **options)
    now = load_dataset([f'lerobot:{out}'], **options)
    assert [e.name for e in now.val.episodes] == [e.name for e in was.val.episodes]
    assert list(now.skipped.values()) == ['marked as failed']
    for left, right in ((was.train, now.train), (was.val, now.val)):
        a, b = (d.get_batch(np.arange(len(d))) for d in (left, right))
        for key in ('state', 'action', 'action_mask', 'tick', 'instruction_id'):
            assert (a[key] == b[key]).all(), key
        for name, images in a['images'].items():
            assert (images.float() - b['images'][name].float()).square().mean() < 40
    assert now.cache.instructions == was.cache.instructions
    assert now.cache.path.parent == out / '.vla_cache'


def test_a_folder_and_bags_of_one_robot_are_trained_on_together(tmp_path, recorder):
    path, _, _ = recorder.record('first')
    bags = find_sources([path])[0]
    export_lerobot(bags, tmp_path / 'out', recorder.embodiment, progress=False)
    recorder.record('second', ticks=9)
    data = load_dataset(
        [recorder.root, f'lerobot:{tmp_path}/out'], val_fraction=0.0, progress=False
    )
    assert [len(range(e.start, e.stop)) for e in data.cache.episodes] == [6, 9, 6]


def test_a_cache_is_made_again_where_keys_or_files_change(foreign):
    def build(keys=None):
        return load_dataset(
            [f'lerobot:{foreign}'], val_fraction=0.0, embodiment=foreign_embodiment(),
            lerobot_keys=keys or foreign_keys(), progress=False,
        ).cache  # fmt: skip

    first = build()
    assert build().path == first.path
    state = {**KEYS['state'], 'lift': {'at': 'lift.pos', 'scale': 2.0}}
    other = build(foreign_keys(state=state))
    assert other.path != first.path
    assert (other.arrays['state'][:, 1] != first.arrays['state'][:, 1]).all()
    rows = pq.read_table(foreign / DATA)
    pq.write_table(rows, foreign / DATA, compression='none')
    assert build().path not in (first.path, other.path)


# -- what is which ------------------------------------------------------------------------------


def renamed(root):
    """The folder with names that are the robot's own, an opening, and the seven of the action."""
    joints = ['a', 'b', 'gripper_opening']
    names = ['dx', 'dy', 'gripper']

    def change(data):
        features = data['features']
        features['observation.state']['names'] = joints
        features['action']['names'] = names
        features['observation.images.front'] = features.pop('observation.images.top')

    change_info(root, change)
    change_table(root / EPISODES)
    table = pq.read_table(root / EPISODES)
    columns = [c.replace('images.top', 'images.front') for c in table.column_names]
    pq.write_table(table.rename_columns(columns), root / EPISODES)
    (root / 'videos/observation.images.top').rename(root / 'videos/observation.images.front')


def test_equal_names_need_no_keys(foreign, embodiment):
    renamed(foreign)
    robot = replace(embodiment, cameras=(Camera('front', 'front', 32, 24),), rate_hz=30.0)
    rest = {name: {'constant': 0} for name in ('dz', 'droll', 'dpitch', 'dyaw')}
    data = read_episode(find(foreign, robot, LeRobotKeys.from_dict({'action': rest}))[0])
    rows = pq.read_table(foreign / DATA).slice(0, 5)
    state = np.array(rows['observation.state'].to_pylist(), np.float32)
    action = np.array(rows['action'].to_pylist(), np.float32)
    np.testing.assert_allclose(data.state, state, rtol=1e-6)
    assert (data.index.actions[:, [0, 1, 6]] == action).all()
    assert (data.index.actions[:, 2:6] == 0).all()


def test_what_is_not_found_is_said_at_once_with_what_there_is(foreign, embodiment):
    with pytest.raises(DatasetError) as error:
        find(foreign, replace(embodiment, rate_hz=30.0), LeRobotKeys())
    text = str(error.value)
    for part in (
        "no images 'observation.images.front' for camera 'front'",
        "no images 'observation.images.wrist' for camera 'wrist'",
        "no a, b, finger in 'observation.state'",
        "no dx, dy, dz, droll, dpitch, dyaw, gripper in 'action'",
        'observation.state float32[3] (pan.pos, lift.pos, jaw.pos)',
        'observation.images.top video[3, 24, 32]',
        '--lerobot-keys',
    ):
        assert part in text


@pytest.mark.parametrize(
    'changes, reason',
    [
        ({'state': {**KEYS['state'], 'pan': {'at': 'pen.pos'}}}, r"no pan \(at 'pen.pos'\) in"),
        ({'state': {**KEYS['state'], 'pan': {'at': 3}}}, r'no pan \(at 3\) in'),
        ({'state': {**KEYS['state'], 'pan': {'at': 0, 'feature': 'x'}}}, "no pan .* in 'x'"),
        ({'cameras': {'front': 'action'}}, "no images 'action' for camera 'front'"),
        ({'cameras': {**KEYS['cameras'], 'rear': 'x'}}, r'keys.cameras.rear is nothing'),
        ({'state': {**KEYS['state'], 'knee': {'at': 0}}}, r'keys.state.knee is nothing'),
        ({'action': {**KEYS['action'], 'knee': {'at': 0}}}, r'keys.action.knee is nothing'),
    ],
)
def test_keys_that_lead_nowhere_are_named(written, changes, reason):
    with pytest.raises(DatasetError, match=reason):
        find(written[0], keys=foreign_keys(**changes))


@pytest.mark.parametrize(
    'data, reason',
    [
        ([], 'keys must be a mapping'),
        ({'camera': {}}, 'unknown key camera in keys; allowed: cameras, state, action'),
        ({'cameras': ['front']}, 'keys.cameras must be a mapping'),
        ({'cameras': {'front': 3}}, 'must name a feature for each camera'),
        ({'state': {'a': 0}}, 'keys.state.a must be a mapping'),
        ({'state': {'a': {}}}, 'keys.state.a needs either "at" or "constant"'),
        ({'state': {'a': {'at': 0, 'constant': 1}}}, 'needs either "at" or "constant"'),
        ({'state': {'a': {'at': True}}}, 'must be an index or a name'),
        ({'state': {'a': {'at': 0, 'scale': float('nan')}}}, 'must be numbers'),
        ({'state': {'a': {'at': 0, 'sign': -1}}}, 'unknown key sign'),
        ({'action': {'a': {'at': 0, 'feature': 3}}}, 'must be the name of a feature'),
    ],
)
def test_a_file_of_keys_is_checked(data, reason):
    with pytest.raises(ConfigError, match=reason):
        LeRobotKeys.from_dict(data)


def test_a_file_of_keys_that_cannot_be_read_is_named(tmp_path):
    file = tmp_path / 'keys.yaml'
    with pytest.raises(ConfigError, match='keys.yaml cannot be read'):
        LeRobotKeys.load(file)
    file.write_text('state: {a: [')
    with pytest.raises(ConfigError, match='keys.yaml cannot be read as YAML'):
        LeRobotKeys.load(file)
    file.write_text('state: {a: {}}')
    with pytest.raises(ConfigError, match='keys.yaml: keys.state.a needs'):
        LeRobotKeys.load(file)


def test_another_rate_is_refused_with_the_one_to_write_down(written):
    with pytest.raises(DatasetError, match='has 30 frames a second, .* write rate_hz: 30'):
        find(written[0], foreign_embodiment(rate_hz=10.0))


def test_a_folder_that_names_no_robot_needs_one(written):
    with pytest.raises(DatasetError, match=r'does not say which robot .* \(--embodiment FILE\)'):
        find_sources([f'lerobot:{written[0]}'])


def test_depth_is_no_image(foreign):
    def change(data):
        data['features']['observation.images.top']['info'] = {'is_depth_map': True}

    change_info(foreign, change)
    with pytest.raises(DatasetError, match='is depth, which has no colour'):
        find(foreign)


# -- what is damaged, or lies -------------------------------------------------------------------


def truncate(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def no_features(data):
    del data['features']


def fps_zero(data):
    data['fps'] = 0


def leads_out(data):
    data['data_path'] = '../{chunk_index}/{file_index}.parquet'


def absolute(data):
    data['video_path'] = '/x/{video_key}/{chunk_index}/{file_index}.mp4'


def through_the_middle(data):
    data['data_path'] = 'data/{chunk_index}/../../../{file_index}.parquet'


def by_key(data):
    """`..` is put together by filling in the template."""
    data['features']['.'] = data['features'].pop('observation.images.top')
    data['video_path'] = '.{video_key}/{chunk_index}/{file_index}.mp4'


def attribute(data):
    data['data_path'] = '{chunk_index.__class__}/{file_index}'


def padded(data):
    data['data_path'] = '{chunk_index:0999999999d}/{file_index}'


def slash(data):
    data['features']['../../x'] = data['features']['action']


def huge_shape(data):
    data['features']['action']['shape'] = [10**30]


def more_episodes(data):
    data['total_episodes'] = 10**9


@pytest.mark.parametrize(
    'change, reason',
    [
        (no_features, "lacks 'features'"),
        (fps_zero, 'fps must be a number above 0'),
        (leads_out, 'leads out of the folder'),
        (absolute, 'leads out of the folder'),
        (through_the_middle, 'leads out of the folder'),
        (by_key, "'.' is no name of a feature"),
        (attribute, 'is no template of a path'),
        (padded, 'is no template of a path'),
        (slash, 'is no name of a feature'),
        (huge_shape, 'has the shape'),
        (more_episodes, 'lists 3 episodes, info.json says 1000000000'),
        (lambda data: data.update(features=[]), 'features must be a mapping'),
        (lambda data: data.update(codebase_version='v4.0'), "is 'v4.0', read is v3.0"),
        (lambda data: data.pop('codebase_version'), "is 'none', read is v3.0"),
    ],
)
def test_an_info_that_cannot_be_is_refused(foreign, change, reason):
    change_info(foreign, change)
    with pytest.raises(DatasetError, match=reason):
        find(foreign)


@pytest.mark.parametrize(
    'version, end',
    [('v2.1', 'push-to-hub=false$'), ('v2.0', 'takes v2.1: an older'), ('v1.6', 'takes v2.1')],
)
def test_an_older_layout_is_refused_with_the_way_to_convert_it(foreign, version, end):
    change_info(foreign, lambda data: data.update(codebase_version=version))
    reason = rf'{version}.*convert_dataset_v21_to_v30.*{foreign} .*{end}'
    with pytest.raises(DatasetError, match=reason):
        find(foreign)


@pytest.mark.parametrize('name', ['meta/info.json', 'meta/tasks.parquet', EPISODES, DATA, VIDEO])
def test_a_missing_file_is_named(foreign, name):
    (foreign / name).unlink()
    with pytest.raises(DatasetError, match=name.split('/')[-1].split('-')[0]):
        [episode.files() for episode in find(foreign)]
    with pytest.raises(DatasetError, match='is missing|no parquet file'):
        read_all(foreign)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize('name', ['meta/info.json', 'meta/tasks.parquet', EPISODES, DATA, VIDEO])
def test_a_truncated_file_is_named(foreign, name, share):
    truncate(foreign / name, share)
    with pytest.raises(DatasetError, match=name.split('/')[-1].replace('.', r'\.')):
        read_all(foreign)


def test_an_info_without_end_is_refused(foreign):
    (foreign / 'meta/info.json').write_text('[' * 100_000)
    with pytest.raises(DatasetError, match='info.json is damaged'):
        find(foreign)
    (foreign / 'meta/info.json').write_text('[]')
    with pytest.raises(DatasetError, match='must hold an object'):
        find(foreign)


@pytest.mark.parametrize(
    'file, columns, reason',
    [
        (EPISODES, {'length': [5, 8, 6]}, '7 of 8 frames of episode 1 are there'),
        (EPISODES, {'length': [5, 0, 6]}, 'an episode without frames'),
        (EPISODES, {'length': None}, 'has no column length'),
        (EPISODES, {'length': ['a', 'b', 'c']}, 'episodes/.*damaged: .*a'),
        (EPISODES, {'tasks': [1, 2, 3]}, 'episodes/.*damaged: .*list'),
        (EPISODES, {'data/chunk_index': [['x']] * 3}, 'episodes/.*damaged: .*int64'),
        (EPISODES, {BEGIN: ['x', 'y', 'z']}, 'episodes/.*damaged: .*double'),
        (EPISODES, {'episode_index': [0, 1, 1]}, 'counted from 0'),
        (EPISODES, {'data/file_index': [0, 1, 0]}, r'file-001\.parquet is missing'),
        (EPISODES, {'data/file_index': [0, -1, 0]}, 'does not say where data is'),
        (EPISODES, {FILE: [0, 7, 0]}, 'file-007.mp4 is missing'),
        (EPISODES, {BEGIN: [0.0, 9.0, 0.4]}, 'ends after'),
        (EPISODES, {BEGIN: [0.0, 0.015, 0.4]}, 'no frame'),
        (EPISODES, {BEGIN: [0.0, None, 0.4]}, 'no time'),
        (DATA, {'task_index': np.arange(18) + 7}, 'names task'),
        (DATA, {'task_index': [[0]] * 18}, 'data/.*damaged: .*int64'),
        (DATA, {'frame_index': np.zeros(18, int)}, 'are not in order'),
        (DATA, {'timestamp': np.zeros(18, np.float32)}, 'do not ascend'),
        (DATA, {'timestamp': np.full(18, np.nan, np.float32)}, 'do not ascend'),
        (DATA, {'timestamp': None}, 'has no column timestamp'),
        (DATA, {'action': None}, 'has no column action'),
        (DATA, {'action': [[1.0, 2.0]] * 18}, 'has .2. numbers a row, info.json says 3'),
        (DATA, {'action': [[1.0]] * 9 + [[1.0, 2.0, 3.0]] * 9}, 'info.json says 3'),
        (DATA, {'action': np.arange(18.0)}, 'has one number a row, info.json says 3'),
        (DATA, {'action': [[1.0, None, 2.0]] * 18}, 'numbers that are not there'),
        (DATA, {'action': [['1', '2', '3']] * 18}, 'which is no number'),
        (DATA, {'action': [[1.0, float('inf'), 2.0]] * 18}, 'is not finite'),
        (DATA, {'observation.state': [[float('nan')] * 3] * 18}, 'is not finite'),
        ('meta/tasks.parquet', {'task_index': None}, 'has no columns "task" and "task_index"'),
        ('meta/tasks.parquet', {'task_index': [[0], [1]]}, 'tasks.parquet .*damaged: .*int64'),
        ('meta/tasks.parquet', {'__index_level_0__': [1, 2]}, 'a task is no text'),
    ],
)
def test_a_table_that_lies_is_refused(foreign, file, columns, reason):
    change_table(foreign / file, **columns)
    with pytest.raises(DatasetError, match=reason):
        read_all(foreign)


def test_a_video_of_another_size_is_refused(foreign):
    def change(data):
        data['features']['observation.images.top']['shape'] = [3, 48, 64]

    change_info(foreign, change)
    with pytest.raises(DatasetError, match='frames of 32x24 pixels, info.json says 64x48'):
        read_episode(find(foreign)[0])


def test_a_damaged_picture_in_a_table_is_refused(tmp_path):
    write_foreign(tmp_path / 'set', kind='image')
    for value, reason in ((b'\x89PNG\r\n\x1a\nrubbish', 'broken'), (b'', 'has no image in row 0')):
        rows = [{'bytes': value, 'path': None}] * 18
        change_table(tmp_path / 'set' / DATA, **{'observation.images.top': rows})
        with pytest.raises(DatasetError, match=reason):
            read_episode(find(tmp_path / 'set')[0])


def test_a_damaged_sidecar_is_named(foreign):
    file = foreign / 'meta' / 'vla_alignment_ros.json'
    for text, reason in (
        ('{', 'is damaged'),
        ('{"format_version": 2}', 'has format 2, this package reads 1'),
        ('{"format_version": 1, "embodiment": {"name": "x"}}', 'not valid: .*lacks'),
        ('{"format_version": 1}', 'not valid'),
    ):
        file.write_text(text)
        with pytest.raises(DatasetError, match=reason):
            find_sources([f'lerobot:{foreign}'])


def add_to_episodes(root, column, value):
    table = pq.read_table(root / EPISODES)
    pq.write_table(table.append_column(column, pa.array([value] * 3)), root / EPISODES)


@pytest.mark.parametrize('notes', ['{', '[]', '{"task": 3}'])
def test_damaged_notes_are_named(foreign, notes):
    add_to_episodes(foreign, 'vla/extra', notes)
    with pytest.raises(DatasetError, match='episode_000000: its notes'):
        find(foreign)


@pytest.mark.parametrize('column', ['vla/name', 'vla/success', 'vla/instruction', 'vla/extra'])
def test_what_we_wrote_is_of_its_type_or_refused(foreign, column):
    add_to_episodes(foreign, column, ['x'])
    with pytest.raises(DatasetError, match='episodes/.*file-000.parquet .*damaged: .*list'):
        find(foreign)


@pytest.mark.parametrize('name', ['../../x', '/x', '..', '.x', 'a/../../../x'])
def test_the_name_of_an_episode_leads_nowhere(foreign, tmp_path, name):
    add_to_episodes(foreign, 'vla/name', name)
    out = tmp_path / 'in' / 'bags'
    (bag,) = import_bags(find(foreign)[:1], out, progress=False)
    assert bag.parent == out
    assert {p.name for p in tmp_path.iterdir()} == {'set', 'in'}
    assert [p.name for p in (tmp_path / 'in').iterdir()] == ['bags']
