from __future__ import annotations

import ast
import configparser
import importlib
import os
from pathlib import Path
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import setuptools
import yaml

import vla_alignment_ros

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'vla_alignment_ros'
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()
# what is imported -> its rosdep key and its name for pip, where these differ from it
ROSDEP_KEYS = {
    'cv2': 'python3-opencv',
    'mujoco': 'python3-mujoco-pip',
    'rosbags': 'python3-rosbags-pip',
    'transformers': 'python3-transformers-pip',
}
PIP_NAMES = {
    'cv2': 'opencv-python-headless',
    'cv_bridge': 'cv-bridge',
    'huggingface_hub': 'huggingface-hub',
    'mcap_ros2': 'mcap-ros2-support',
    'faiss': 'faiss-cpu',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}
# needed without being imported: by a library, or to build
UNSEEN = {'ruamel-yaml-clib', 'setuptools', 'tensorboard'}
# comes with another requirement, and only together with it
WITH = {'rcl_interfaces': 'ros-rclpy', 'rpyutils': 'ros-rclpy'}


def pip_name(requirement: str) -> str:
    return re.split(r'[^A-Za-z0-9_.-]', requirement, maxsplit=1)[0].lower()


@pytest.fixture(scope='module')
def described() -> dict:
    """The arguments that setup.py hands to setuptools."""
    arguments: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, 'setup', lambda **keywords: arguments.update(keywords))
        runpy.run_path(str(ROOT / 'setup.py'))
    return arguments


def imported_packages(*folders: str) -> dict[str, str]:
    """Third-party packages that the sources import -> the first file that does."""
    found: dict[str, str] = {}
    own = {PACKAGE, 'conftest', 'bench', *(p.stem for p in (ROOT / 'test').rglob('*.py'))}
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.split('.')[0] for name in names):
                if name not in sys.stdlib_module_names and name not in own:
                    found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def dependencies(*tags: str) -> set[str]:
    return {element.text for tag in tags for element in MANIFEST.iter(tag)}


def pip_requirements(described: dict) -> set[str]:
    extras = described['extras_require'].values()
    return {pip_name(r) for r in described['install_requires']} | {
        pip_name(r) for extra in extras for r in extra
    }


def test_the_manifest_is_an_ament_python_package_of_format_3():
    assert MANIFEST.get('format') == '3'
    assert MANIFEST.findtext('name') == PACKAGE
    assert MANIFEST.findtext('export/build_type') == 'ament_python'
    assert MANIFEST.findtext('license') == 'Apache-2.0'
    assert (ROOT / MANIFEST.find('license').get('file')).read_text().lstrip().startswith('Apache')
    assert (ROOT / 'resource' / PACKAGE).is_file()


def test_the_maintainers_address_is_well_formed():
    # With a malformed address colcon silently builds a plain Python package instead.
    addresses = [maintainer.get('email') for maintainer in MANIFEST.iter('maintainer')]
    assert addresses
    for address in addresses:
        assert re.fullmatch(r'[a-z0-9.-]+@[a-z0-9-]+(\.[a-z0-9-]+)+', address)


def test_one_version_everywhere(described):
    version = described['version']
    assert MANIFEST.findtext('version') == version
    assert vla_alignment_ros.__version__ == version
    changelog = (ROOT / 'CHANGELOG.rst').read_text()
    newest = re.search(r'^(Forthcoming|\d+\.\d+\.\d+ .*)\n-+$', changelog, flags=re.MULTILINE)
    assert newest, 'CHANGELOG.rst has no entry'
    assert newest[1] == 'Forthcoming' or newest[1].startswith(version)


def test_every_import_of_the_package_is_declared(described):
    resolvable = dependencies('depend', 'exec_depend')
    by_pip = pip_requirements(described)
    undeclared = {
        name: file
        for name, file in imported_packages(PACKAGE).items()
        if not {name, f'python3-{name}', ROSDEP_KEYS.get(name)} & resolvable
        and PIP_NAMES.get(name, name) not in by_pip
    }
    assert not undeclared, 'neither in package.xml nor in setup.py'


def test_pip_brings_every_import_of_package_tests_and_bench(described):
    by_pip = pip_requirements(described)
    ros_only = {'launch', 'launch_ros', 'launch_pytest', 'ament_index_python'}
    missing = {
        name: file
        for name, file in imported_packages(PACKAGE, 'test', 'bench', 'tools').items()
        if PIP_NAMES.get(name, name) not in by_pip
        and f'ros-{name}'.replace('_', '-') not in by_pip
        and WITH.get(name) not in by_pip
        and name not in ros_only
    }
    assert not missing, 'no extra of setup.py brings them'


def test_nothing_is_asked_for_that_nobody_imports(described):
    imported = {PIP_NAMES.get(name, name) for name in imported_packages(PACKAGE)}
    extras = described['extras_require']
    asked = [*described['install_requires'], *extras['train'], *extras['lerobot'], *extras['sim']]
    assert {pip_name(requirement) for requirement in asked} <= imported | UNSEEN


def test_ros_messages_are_declared_for_both_worlds(described):
    # imported, or named by a topic's type as in 'sensor_msgs/msg/Image'
    sources = '\n'.join(p.read_text(encoding='utf-8') for p in (ROOT / PACKAGE).rglob('*.py'))
    ros = set(re.findall(r"'(\w+)/(?:msg|srv|action)/\w+'", sources))
    ros |= {name for name in imported_packages(PACKAGE) if name.endswith(('_msgs', '_srvs'))}
    assert 'sensor_msgs' in ros
    assert ros <= dependencies('exec_depend')
    standalone = {pip_name(r) for r in described['extras_require']['standalone']}
    assert {f'ros-{name}'.replace('_', '-') for name in ros} <= standalone


def test_what_the_extras_ask_for_is_what_the_constraints_pin(described):
    pinned = {
        re.split('[=;]', line, maxsplit=1)[0].strip()
        for line in (ROOT / 'constraints.txt').read_text().splitlines()
        if line and not line.startswith('#')
    }
    assert pip_requirements(described) <= pinned


def test_colcon_finds_pytest_in_the_test_extra(described):
    assert 'pytest' in {pip_name(r) for r in described['extras_require']['test']}


def test_shared_files_keep_their_folders(described):
    installed = {
        f'{target}/{Path(file).name}': file
        for target, files in described['data_files']
        for file in files
    }
    for folder in ('checkpoints', 'config', 'foxglove', 'launch', 'rviz', 'urdf', 'worlds'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                where = path.relative_to(ROOT).as_posix()
                assert installed.get(f'share/{PACKAGE}/{where}') == where
    assert f'share/ament_index/resource_index/packages/{PACKAGE}' in installed
    assert f'share/{PACKAGE}/package.xml' in installed


def test_files_beside_the_modules_are_installed_with_them(described):
    patterns = described['package_data'][PACKAGE]
    base = ROOT / PACKAGE
    covered = {path for pattern in patterns for path in base.glob(pattern)}
    files = {path for path in base.rglob('*') if path.is_file()}
    others = {path for path in files if path.suffix not in {'.py', '.pyc'}}
    assert others <= covered


def test_every_room_is_a_package(described):
    folders = {p.parent for p in (ROOT / PACKAGE).rglob('*.py')}
    assert {'.'.join(f.relative_to(ROOT).parts) for f in folders} == set(described['packages'])


def test_scripts_land_where_ros2_run_looks():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert config['develop']['script_dir'] == f'$base/lib/{PACKAGE}'
    assert config['install']['install_scripts'] == f'$base/lib/{PACKAGE}'


def test_every_command_can_be_imported_and_has_a_main(described):
    for entry in described['entry_points']['console_scripts']:
        name, target = (part.strip() for part in entry.split('='))
        module, function = target.split(':')
        if '.nodes.' in module:
            pytest.importorskip('rclpy')
        assert callable(getattr(importlib.import_module(module), function)), name


@pytest.mark.parametrize('command', ['vla_demo', 'vla_train', 'vla_evaluate', 'vla_bag'])
def test_a_command_explains_itself_without_ros(command):
    hide_ros = (
        'import sys; sys.modules["rclpy"] = None; sys.argv = ["", "--help"];'
        f'from {PACKAGE}.cli.{command} import main; sys.exit(main())'
    )
    done = subprocess.run(
        [sys.executable, '-c', hide_ros],
        capture_output=True, text=True, check=False, env={**os.environ, 'COLUMNS': '99'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'usage' in done.stdout.lower()


def test_every_shipped_yaml_file_is_plain_data():
    files = sorted((ROOT / 'config').rglob('*.yaml'))
    assert files
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding='utf-8')), (dict, list)), path
