"""Build description for colcon (ament_python) and pip."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'vla_alignment_ros'
SHARE = f'share/{PACKAGE}'
SHARED_FOLDERS = ('checkpoints', 'config', 'foxglove', 'launch', 'rviz', 'urdf', 'worlds')

STANDALONE = [
    # ROS 2 itself, as wheels: for a machine without a ROS 2 installation.
    'cv-bridge>=1.13',
    'ros-builtin-interfaces>=2.3',
    'ros-diagnostic-msgs>=5.5',
    'ros-geometry-msgs>=5.5',
    'ros-lifecycle-msgs>=2.3',
    'ros-rcl-interfaces>=2.3',
    'ros-rclpy[fastrtps]>=9.1',
    'ros-rosgraph-msgs>=2.3',
    'ros-sensor-msgs>=5.5',
    'ros-std-msgs>=5.5',
    'ros-std-srvs>=5.5',
    'ros-trajectory-msgs>=5.5',
    'ros-visualization-msgs>=5.5',
]
TRAIN = [
    'accelerate>=1.2',
    'huggingface-hub>=1.0',
    'matplotlib>=3.7',
    'safetensors>=0.4.3',
    'scikit-learn>=1.3',
    'tensorboard>=2.15',
    'tokenizers>=0.21',
    'torch>=2.6',
    'transformers>=5.0,<6',
]
HF = [
    'peft>=0.18',  # adapters of pretrained towers
]
LEROBOT = [
    # LeRobot folders: tables and videos
    'av>=15',
    'pyarrow>=21',
]
SIM = [
    'mink>=1.0',
]
BENCH = [
    # a peer that is measured against
    'faiss-cpu>=1.8',
]
TEST = [
    'hypothesis>=6.90',
    'mcap-ros2-support>=0.6',  # an independent reader of what is recorded
    'pytest>=7.4,<9',
    'pytest-timeout>=2.2',
    'pytest-xdist>=3.3',  # half the time on two cores
    'ruff>=0.9',
]


def shared_files():
    """Every file below the shared folders, with its place below share/."""
    for folder in SHARED_FOLDERS:
        for parent in sorted({path.parent for path in Path(folder).rglob('*') if path.is_file()}):
            if '__pycache__' in parent.parts:
                continue
            files = [str(path) for path in sorted(parent.iterdir()) if path.is_file()]
            yield f'{SHARE}/{parent.as_posix()}', files


setup(
    name=PACKAGE,
    version='0.1.0',
    description='Vision-language-action policies for ROS 2 that know when words and scene differ.',
    license='Apache-2.0',
    maintainer='vla_alignment_ros maintainers',
    maintainer_email='maintainers@vla-alignment-ros.dev',
    keywords=['ROS 2', 'robot learning', 'vision-language-action', 'imitation learning'],
    python_requires='>=3.10',
    packages=find_packages(exclude=['bench', 'bench.*', 'test', 'test.*', 'tools', 'tools.*']),
    package_data={PACKAGE: ['py.typed', '**/*.html', '**/*.j2', '**/*.css']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (SHARE, ['package.xml']),
        *shared_files(),
    ],
    zip_safe=False,
    install_requires=[
        'setuptools',
        'daqp>=0.8.2',  # quadratic programmes of servo_node
        'jinja2>=3.1',
        'mcap>=1.6',  # reads recordings that were cut off
        'mujoco>=3.3',  # kinematics of the URDF, on the robot too
        'numpy>=1.24,<2.3',
        'opencv-python-headless>=4.6,<5',
        'pyyaml>=6',
        'rich>=13',
        'rosbags>=0.11,<0.12',
        'ruamel-yaml-clib>=0.2.8',  # rosbags parses YAML with it, half as fast again
        'tqdm>=4.66',
        'tyro>=0.9',
        'zstandard>=0.20',
    ],
    extras_require={
        'standalone': STANDALONE,
        'train': TRAIN,
        'hf': HF,
        'lerobot': LEROBOT,
        'sim': SIM,
        'bench': BENCH,
        'test': TEST,
        'all': STANDALONE + TRAIN + HF + LEROBOT + SIM + BENCH + TEST,
    },
    entry_points={
        'console_scripts': [
            f'policy_node = {PACKAGE}.nodes.policy_node:main',
            f'training_node = {PACKAGE}.nodes.training_node:main',
            f'simulator_node = {PACKAGE}.nodes.simulator_node:main',
            f'expert_node = {PACKAGE}.nodes.expert_node:main',
            f'servo_node = {PACKAGE}.nodes.servo_node:main',
            f'teleop_node = {PACKAGE}.nodes.teleop_node:main',
            f'vla_demo = {PACKAGE}.cli.vla_demo:main',
            f'vla_train = {PACKAGE}.cli.vla_train:main',
            f'vla_evaluate = {PACKAGE}.cli.vla_evaluate:main',
            f'vla_bag = {PACKAGE}.cli.vla_bag:main',
        ],
    },
)
