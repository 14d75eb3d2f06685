"""README and docs: every command in them exists with the options it is given, every link leads on.

Commands are read by the programs' own parsers and not run; `test_documents_run.py` runs those of
docs/teach.md that need no robot.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import importlib
import inspect
from pathlib import Path
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree

from document_commands import blocks, commands, DOCUMENTS
from launch_reading import declared, executables, PACKAGE, ROOT, schema
import pytest
import tyro
import yaml

from vla_alignment_ros.embodiment import Embodiment

PROGRAMS = ('vla_demo', 'vla_train', 'vla_evaluate', 'vla_bag')
# other people's programs, some with a network or keys: no test says whether these lines work
NOT_CHECKED = ('export', 'hf', 'xacro')
ROS2_NOT_CHECKED = ('security', 'pkg')
PUB_OPTIONS = ('--once', '--qos-durability transient_local', '--rate 20', '--times 40')
TRANSITIONS = ('configure', 'activate', 'deactivate', 'cleanup', 'shutdown')

document = pytest.mark.parametrize(
    'path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).with_suffix('').as_posix()
)


class Parsed(Exception):
    """A program understood its arguments and would begin now."""


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], bool]:
    """Whether the main of a module understands arguments; nothing is run."""
    cli = tyro.cli

    def parse_only(kind, *args, **options):
        if inspect.isfunction(kind):  # tyro would call it
            kind = functools.wraps(kind)(lambda *args, **options: 0)
        cli(kind, *args, **options)
        raise Parsed

    def understands(module: str, arguments: list[str]) -> bool:
        if module.endswith('.vla_bag'):
            verbs = {f.__name__.rstrip('_').replace('_', '-'): f
                     for f in importlib.import_module(module).COMMANDS}  # fmt: skip
            target = functools.partial(parse_only, verbs[arguments[0]], args=arguments[1:])
        else:
            monkeypatch.setattr(tyro, 'cli', parse_only)
            monkeypatch.setattr(sys, 'argv', [module, *arguments])
            target = importlib.import_module(module).main
        try:
            target()
        except Parsed:
            return True
        return False

    return understands


@document
def test_commands_exist_with_these_options(path, parses, capsys):
    for words in commands(path):
        if words[0] in NOT_CHECKED or re.match(r'\w+=', words[0]):
            continue
        try:
            assert check(words, parses), f'nobody knows how to check: {words}'
        except SystemExit:
            pytest.fail(f'{words}\n{capsys.readouterr()}')


def check(words: list[str], parses: Callable[[str, list[str]], bool]) -> bool:
    """Assert that a command exists with its arguments; False for one that nobody knows."""
    program, arguments = words[0], words[1:]
    if program in PROGRAMS:
        return parses(f'{PACKAGE}.cli.{program}', arguments)
    if program == 'torchrun' or (program == 'python' and arguments[:2] != ['-m', 'colcon']):
        module = arguments[arguments.index('-m') + 1]
        return parses(module, arguments[arguments.index('-m') + 2 :])
    if program == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), flags=re.MULTILINE)
        return arguments[0] in targets
    if program == 'cp':
        return (ROOT / arguments[0]).exists()
    if program == 'ros2':
        return check_ros2(*arguments)
    if program == 'rosdep' and '--rosdistro' not in arguments:
        return skipped_keys_are_dependencies(arguments)
    return is_run_by_continuous_integration(words)


def check_ros2(verb: str, *arguments: str) -> bool:
    if verb in ROS2_NOT_CHECKED:
        return True
    if verb == 'launch':
        return check_launch(*arguments)
    if verb == 'run':
        return check_run(*arguments)
    if verb == 'topic':
        return check_topic(' '.join(arguments[:-1]), arguments[-1])
    if verb == 'service':
        action, name, kind, *values = arguments
        fields = interface(kind).Request.get_fields_and_field_types()
        said = yaml.safe_load(values[0]) if values else {}
        node, _, service = name.lstrip('/').partition('/')
        return action == 'call' and f'~/{service}' in granted(node) and set(said) <= set(fields)
    if verb == 'param':
        _, node, name, *_ = arguments
        return name in schema(node.lstrip('/'))
    if verb == 'lifecycle':
        action, node, transition = arguments
        served = granted(node.lstrip('/'))
        return action == 'set' and transition in TRANSITIONS and '~/change_state' in served
    return False


def check_launch(package: str, file: str, *given: str) -> bool:
    path = ROOT / 'launch' / file
    if file == 'FILE':  # any of them
        return given == ('--show-args',)
    names = {argument.partition(':=')[0] for argument in given}
    unknown = names - declared(path)
    assert not unknown, f'{file} has no {unknown}'
    return package == PACKAGE


def check_run(package: str, executable: str, *arguments: str) -> bool:
    assert (package, arguments[0]) == (PACKAGE, '--ros-args')
    for flag, value in zip(arguments, arguments[1:]):
        if flag == '-p':
            assert value.partition(':=')[0] in schema(executable), value
        elif flag == '-r':
            assert all(value.partition(':=')[::2]), value
    return executable in executables()


def check_topic(words: str, last: str) -> bool:
    for option in PUB_OPTIONS:
        words = words.replace(f' {option}', '')
    action, *rest = [*words.split(), last]
    topic = rest[0].removeprefix('/')
    node, _, name = topic.partition('/')
    assert topic in Embodiment.load('tabletop').topics() or f'~/{name}' in granted(node), topic
    if action == 'pub':
        _, kind, values = rest
        assert set(yaml.safe_load(values)) <= set(interface(kind).get_fields_and_field_types())
    return action in ('pub', 'echo', 'hz')


def granted(node: str) -> set[str]:
    """Topics and services of a node, as a test of the SROS 2 policy finds them in the graph."""
    root = ElementTree.parse(ROOT / 'config' / 'security' / 'policy.xml').getroot()
    profiles = [p for p in root.iter('profile') if p.get('node') == node]
    return {e.text for p in profiles for tag in ('topic', 'service') for e in p.iter(tag)}


def interface(kind: str) -> type:
    package, folder, name = re.fullmatch(r'(\w+)/(?:(\w+)/)?(\w+)', kind).groups()
    pytest.importorskip('rclpy')
    return getattr(importlib.import_module(f'{package}.{folder or "msg"}'), name)


def skipped_keys_are_dependencies(arguments: list[str]) -> bool:
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    keys = arguments[arguments.index('--skip-keys') + 1].split()
    return set(keys) <= {element.text for element in manifest.iter('exec_depend')}


def is_run_by_continuous_integration(words: list[str]) -> bool:
    run = (ROOT / '.github' / 'workflows' / 'ros.yaml').read_text()
    run = run.replace('${{ matrix.ros }}', 'jazzy').replace('\\\n', ' ')
    lines = [line.strip() for line in run.splitlines()]
    return words in [shlex.split(line) for line in lines if line and line.count("'") % 2 == 0]


@pytest.mark.parametrize(
    'wrong',
    [
        'vla_evaluate --checkpoint x --episode-count 3',
        'vla_bag inform demos',
        'vla_train --data demos --out x --optimizer.stride 3',
        'make everything',
        'ros2 launch vla_alignment_ros policy.launch.py speed:=3',
        'ros2 run vla_alignment_ros policy_node --ros-args -p speed:=3',
        'ros2 topic pub /instructions std_msgs/String "data: x"',
        'ros2 topic pub /instruction std_msgs/String "text: x"',
        'ros2 service call /policy_node/start std_srvs/srv/Trigger',
        'ros2 param set /policy_node speed 3',
        'rosdep install --skip-keys nothing',
        'apt install everything',
    ],
)
def test_a_wrong_command_is_found(wrong, parses):
    try:
        found = check(shlex.split(wrong), parses)
    except (AssertionError, KeyError, SystemExit):
        found = False
    assert not found


@document
def test_blocks_with_commands_are_marked_as_such(path):
    # else nobody would check them
    known = (*PROGRAMS, 'ros2 ', 'make ', 'torchrun ', 'python ')
    for language, text in blocks(path):
        assert language or not text.startswith(known), text


@document
def test_links_lead_somewhere(path):
    text = re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.M | re.S)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?:', link):
            continue
        file, _, anchor = link.partition('#')
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    text = re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.M | re.S)
    titles = re.findall(r'^#+ (.+)$', text, flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def test_every_page_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / 'README.md']
    while ahead:
        page = ahead.pop()
        seen.add(page)
        links = re.findall(r'\]\(([\w./]+\.md)', page.read_text(encoding='utf-8'))
        ahead += {(page.parent / link).resolve() for link in links} - seen
    assert {page for page in DOCUMENTS if page.parent.name == 'docs'} <= seen


def test_tests_that_are_named_exist():
    named = re.findall(r'`(test_\w+\.py)(?:::(test_\w+))?`', '\n'.join(
        path.read_text(encoding='utf-8') for path in DOCUMENTS
    ))  # fmt: skip
    assert named
    for file, name in named:
        (found,) = (ROOT / 'test').rglob(file)
        assert not name or f'def {name}(' in found.read_text(encoding='utf-8'), (file, name)
