"""Package description for colcon (ament_python) and for pip.

The programs are wanted in two places: `bin/`, for a shell, and `lib/diffusion_policy_rt/`, where
`ros2 run` looks. colcon follows setup.cfg to the second; pip ignores setup.cfg and makes the
first, so a wheel carries small scripts for the second. (An editable install has no data files: for
`ros2 run` while developing, use colcon build --symlink-install.)
"""

from pathlib import Path

from setuptools import find_packages, setup  # before distutils, which it provides
from distutils.command.install_data import install_data

NAME = 'diffusion_policy_rt'
PROGRAMS = {
    'dprt': 'cli.main',
    'policy_node': 'ros.policy_node',
    'pusht_node': 'ros.pusht_node',
    'arm_node': 'ros.arm_node',
    'bag_player': 'ros.bag_player',
}
FORWARD = '#!/bin/sh\nexec "$(dirname "$(readlink -f "$0")")/../../bin/{}" "$@"\n'


class InstallData(install_data):
    """Installs the data files and, into a wheel, the scripts for `ros2 run`."""

    def run(self):
        super().run()
        if 'bdist_wheel' not in self.distribution.command_obj:
            return
        folder = Path(self.install_dir, 'lib', NAME)
        folder.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS:
            script = folder / program
            script.write_text(FORWARD.format(program))
            script.chmod(0o755)
            self.outfiles.append(str(script))


def files(folder, *suffixes):
    """Return the files under `folder` with one of the suffixes (all without), sorted."""
    return sorted(str(path) for path in Path(folder).rglob('*') if path.is_file()
                  and '__pycache__' not in path.parts
                  and (not suffixes or path.suffix in suffixes))


def shared(folder, *suffixes):
    """Return data_files that put `folder` under share/NAME, its tree kept."""
    return [(f'share/{NAME}/{Path(path).parent.as_posix()}', [path])
            for path in files(folder, *suffixes)]


SIM = ['gym-pusht']
ARM = [*SIM, 'gymnasium-robotics', 'mujoco>=3.3']
# lz4 and zstd: what damaged bags are unpacked with; rosbags itself needs them
DEMO = [*SIM, 'backports.zstd', 'lz4', 'matplotlib', 'rosbags', 'tqdm']
TRAIN = ['av', 'onnx', 'pyarrow', 'safetensors', 'torch>=2.8', 'tqdm',
         'zarr>=3; python_version >= "3.11"', 'zarr<3; python_version < "3.11"']
# modelopt imports the last two without declaring them
DISTILL = [*TRAIN, 'huggingface_hub', 'nvidia-modelopt>=0.45', 'requests']

setup(
    name=NAME,
    version='0.1.0',
    description='Runs a distilled diffusion policy on a robot within a fixed control deadline.',
    author='diffusion_policy_rt contributors',
    maintainer='diffusion_policy_rt maintainers',
    maintainer_email='maintainers@example.org',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(exclude=['test']),
    package_data={NAME: ['py.typed', *(str(Path(path).relative_to(NAME))
                                       for path in files(f'{NAME}/bundles'))]},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *shared('launch', '.py'),
        *shared('config', '.yaml', '.xml'),
    ],
    zip_safe=False,
    # what a robot needs to run a bundle; everything else is an extra
    install_requires=['numpy', 'onnxruntime', 'opencv-python<5', 'pyyaml'],
    extras_require={
        'sim': SIM,
        'arm': ARM,
        'demo': DEMO,
        'train': TRAIN,
        'distill': DISTILL,
        # tensorrt-rtx builds engines without a GPU, to see that graphs suit TensorRT
        'test': [*DEMO, *ARM, *DISTILL, 'colcon-ros', 'hypothesis', 'pytest', 'setuptools',
                 'tensorrt-rtx; platform_machine == "x86_64"'],
        'check': ['mypy', 'ruff', 'types-PyYAML'],
        # for machines without a ROS 2 installation: real rclpy over real DDS
        'ros': [f'ros-jazzy-{package}' for package in (
            'ament-index-python', 'builtin-interfaces', 'diagnostic-msgs', 'geometry-msgs',
            'lifecycle-msgs', 'rcl-interfaces', 'rclpy', 'rmw-fastrtps-cpp', 'rosgraph-msgs',
            'sensor-msgs', 'std-msgs', 'std-srvs', 'trajectory-msgs')],
    },
    cmdclass={'install_data': InstallData},
    entry_points={'console_scripts': [
        f'{program} = {NAME}.{module}:main' for program, module in PROGRAMS.items()]},
)
