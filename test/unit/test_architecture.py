from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
import functools
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'vla_alignment_ros'
SOURCES = sorted((ROOT / PACKAGE).rglob('*.py'))
# The order of the rooms: a room imports only rooms that stand before it.
ROOMS = (
    'errors', 'resources', 'fields', 'calibration', 'embodiment', 'pixels', 'samples', 'wire',
    'kinematics', 'observation', 'control', 'data', 'encoders', 'alignment', 'policy', 'training',
    'sim', 'evaluation', 'nodes', 'cli',
)  # fmt: skip
# Started from a function, when it is asked for: the command lines work where no ROS is installed.
LAZY = {('evaluation', 'nodes'), ('cli', 'nodes')}
ROS = ('rclpy', 'launch', 'launch_ros', 'ament_index_python', 'rosbag2_py')
UNSAFE_MODULES = ('pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve')
UNSAFE_CALLS = ('eval', 'exec', 'yaml.load', 'yaml.unsafe_load', 'torch.load', 'torch.save')
MACHINE_PATH = re.compile(r'(?<![\w.~])/(work|home|root|tmp|Users|mnt|data)/')


@dataclass(frozen=True)
class Import:
    module: str  # dotted, absolute
    line: int
    top_level: bool  # runs when the importing module is imported


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def room_of(module: str) -> str | None:
    parts = module.split('.')
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


@functools.cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of a file, relative ones resolved; `from a import b` as `a.b`."""
    package = module_name(path).split('.')
    if path.name != '__init__.py':
        package = package[:-1]

    def walk(node: ast.AST, top_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, top_level)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                base = [*base, *(child.module or '').split('.')] if child.module else base
                for alias in child.names:
                    yield Import('.'.join([*base, alias.name]), child.lineno, top_level)
            else:
                later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, top_level and not later and not is_type_checking(child))

    return tuple(walk(tree_of(path), True))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def assert_none(found: list[str]) -> None:
    assert not found, '\n' + '\n'.join(found)


def assert_clean(check) -> None:
    assert_none([f'{relative(p)}:{line}: {what}' for p in SOURCES for line, what in check(p)])


def test_every_room_has_its_place_in_the_order():
    found = {room_of(module_name(path)) for path in SOURCES} - {None}
    assert found <= set(ROOMS), f'say in ROOMS where it stands: {sorted(found - set(ROOMS))}'


def test_the_package_docstring_lists_the_rooms_in_the_order_that_is_tested():
    docstring = ast.get_docstring(ast.parse((ROOT / PACKAGE / '__init__.py').read_text()))
    listed = re.findall(r'^ {4}(\w+) ', docstring, flags=re.MULTILINE)
    assert tuple(listed) == ROOMS


def test_rooms_import_only_rooms_that_stand_before_them():
    def check(path: Path):
        room = room_of(module_name(path))
        for item in imports_of(path):
            other = room_of(item.module)
            if other not in ROOMS or other == room:
                continue
            if room is None:
                yield item.line, f'the package itself imports {other}'
            elif (room, other) in LAZY:
                if item.top_level:
                    yield item.line, f'{room} imports {other} at the top, not in a function'
            elif ROOMS.index(other) > ROOMS.index(room):
                yield item.line, f'{room} imports {other}, which stands after it'

    assert_clean(check)


def test_only_nodes_import_ros():
    def check(path: Path):
        for item in imports_of(path):
            if item.module.split('.')[0] in ROS and room_of(module_name(path)) != 'nodes':
                yield item.line, f'imports {item.module}'

    assert_clean(check)


def test_modules_do_not_import_each_other_in_a_circle():
    modules = {module_name(path): path for path in SOURCES}

    def target(name: str) -> str | None:
        if name in modules:
            return name
        parent = name.rpartition('.')[0]  # a name inside a module
        return parent if parent in modules else None

    graph = {
        name: {target(item.module) for item in imports_of(path) if item.top_level} - {None, name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def circle(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := circle(other, (*trail, name)):
                return found
        done.add(name)
        return []

    for name in graph:
        assert circle(name, ()) == []


def test_files_stay_small_enough_to_read():
    limits = ((250 if room_of(module_name(p)) == 'nodes' else 400, p) for p in SOURCES)
    lengths = [(path, len(path.read_text().splitlines()), limit) for limit, path in limits]
    assert_none([f'{relative(p)}: {n} > {limit} lines' for p, n, limit in lengths if n > limit])


def test_nothing_loads_code_from_data():
    def check(path: Path):
        for item in imports_of(path):
            if item.module.split('.')[0] in UNSAFE_MODULES:
                yield item.line, f'imports {item.module}'
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            safe_yaml = 'safe' in keywords.get('Loader', '').lower()
            if called in UNSAFE_CALLS and not safe_yaml:
                yield node.lineno, f'calls {called}'
            if keywords.get('allow_pickle', 'False') != 'False':
                yield node.lineno, 'allows pickle'

    assert_clean(check)


def tracked_texts() -> list[Path]:
    suffixes = {'.py', '.yaml', '.yml', '.xml', '.cfg', '.toml', '.sh', '.md', '.rst', '.urdf'}
    rooms = (PACKAGE, 'bench', 'config', 'launch', 'test', 'tools', 'urdf', 'worlds')
    files = [p for room in rooms for p in (ROOT / room).rglob('*') if p.suffix in suffixes]
    return files + [p for p in ROOT.iterdir() if p.suffix in suffixes or p.name == 'Makefile']


def test_no_path_of_one_machine_is_written_down():
    here = Path(__file__).resolve()
    found = [
        f'{relative(path)}:{number}: {line.strip()}'
        for path in tracked_texts()
        if path != here
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert_none(found)


@pytest.mark.parametrize(
    'source, expected',
    [
        ('import rclpy', [('rclpy', True)]),
        ('def f():\n    import rclpy', [('rclpy', False)]),
        ('try:\n    import rclpy\nexcept ImportError:\n    pass', [('rclpy', True)]),
        ('if TYPE_CHECKING:\n    import rclpy', [('rclpy', False)]),
    ],
)
def test_the_import_reader_tells_top_level_from_later(tmp_path, monkeypatch, source, expected):
    monkeypatch.setattr(f'{__name__}.ROOT', tmp_path)
    file = tmp_path / 'module.py'
    file.write_text(source)
    assert [(item.module, item.top_level) for item in imports_of(file)] == expected


def test_the_import_reader_resolves_relative_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(f'{__name__}.ROOT', tmp_path)
    file = tmp_path / PACKAGE / 'control' / 'guard.py'
    file.parent.mkdir(parents=True)
    file.write_text('from .gate import Gate\nfrom ..errors import VlaError\nfrom . import buffer')
    assert [item.module for item in imports_of(file)] == [
        f'{PACKAGE}.control.gate.Gate',
        f'{PACKAGE}.errors.VlaError',
        f'{PACKAGE}.control.buffer',
    ]
