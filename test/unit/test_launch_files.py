"""The launch files, read without ROS: no side effects, and every name in them exists."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree

from launch_reading import (
    calls,
    declared,
    executables,
    keywords,
    PACKAGE,
    ROOT,
    schema,
    texts,
    tree_of,
)
import pytest

FILES = sorted((ROOT / 'launch').glob('*.py'))
HARMLESS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign)
# launch can run anything; ours start nodes
REFUSED = ('ExecuteProcess', 'ExecuteLocal', 'PythonExpression', 'eval', 'exec', 'open', 'system')

every_file = pytest.mark.parametrize('path', FILES, ids=lambda path: path.name.split('.')[0])


def test_there_are_launch_files():
    found = {path.name for path in FILES}
    assert {f'{name}.launch.py' for name in ('policy', 'training', 'simulation', 'demo')} <= found


@every_file
def test_importing_a_launch_file_does_nothing(path):
    body = tree_of(path).body
    assert ast.get_docstring(tree_of(path))
    for statement in body[1:]:
        assert isinstance(statement, HARMLESS), ast.unparse(statement)
        if isinstance(statement, ast.Assign):
            ast.literal_eval(statement.value)
    assert 'generate_launch_description' in {getattr(s, 'name', '') for s in body}


@every_file
def test_a_launch_file_starts_nodes_and_nothing_else(path):
    modules = {alias.name for n in ast.walk(tree_of(path)) if isinstance(n, ast.Import)
               for alias in n.names}  # fmt: skip
    modules |= {n.module for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom)}
    assert {name.split('.')[0] for name in modules} <= {'launch', 'launch_ros', PACKAGE}
    assert [ast.unparse(call) for call in calls(path, *REFUSED)] == []
    assert not [c for c in calls(path, 'Node', 'Command') if 'shell' in keywords(c)]


@every_file
def test_our_executables_and_their_parameters_exist(path):
    for call in calls(path, 'package_node'):
        (executable,) = texts(call)
        assert executable in executables()
        for name, kind in keywords(call).items():
            assert schema(executable)[name].__name__ == ast.unparse(kind), name
            assert name in declared(path)


@every_file
def test_files_that_are_named_exist(path):
    for call in calls(path, 'deployment'):
        assert (ROOT / 'config' / texts(call)[0]).is_file()
    for call in calls(path, 'shared'):
        assert ROOT.joinpath(*texts(call)).exists(), ast.unparse(call)
        assert len(texts(call)) == len(call.args)


@every_file
def test_what_an_included_file_is_given_it_knows(path):
    for call in calls(path, 'include'):
        other = ROOT / 'launch' / texts(call)[0]
        assert other in FILES
        assert set(keywords(call)) - {'condition'} <= declared(other)


@every_file
def test_arguments_that_are_read_are_declared(path):
    # launch itself would only notice when the file is run
    read = {texts(c)[0] for c in calls(path, 'LaunchConfiguration', 'said', 'is_equal')}
    assert read <= declared(path)


@every_file
def test_foreign_packages_are_dependencies(path):
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    depends = {element.text for element in manifest.iter('exec_depend')}
    for call in calls(path, 'Node'):
        assert keywords(call)['package'].value in depends
    for call in calls(path, 'FindPackageShare'):
        assert texts(call)[0] in depends
