"""The shell around the code: what is declared, shipped and installed agrees with what is there."""

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import diffusion_policy_rt

ROOT = Path(__file__).parents[1]
NAME = 'diffusion_policy_rt'
MEBIBYTE = 2**20
DEBIAN = {'cv2': 'python3-opencv', 'numpy': 'python3-numpy', 'yaml': 'python3-yaml'}
"""Name of an import -> what package.xml calls it."""
REQUIREMENT = {'backports': 'backports.zstd', 'cv2': 'opencv-python',
               'gym_pusht': 'gym-pusht', 'modelopt': 'nvidia-modelopt', 'yaml': 'pyyaml'}
"""Name of an import -> what setup.py calls it."""
COLCON = shutil.which('colcon', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
OPTIONAL = {'tensorrt'}
"""Used where they are installed, and installed by nothing here."""
PICKLES = ('.pkl', '.pickle', '.pt', '.pth', '.ckpt', '.joblib')


def tracked() -> list[Path]:
    """Return the files of the repository: those that git does not ignore."""
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split('\0')[:-1]
    if listed.returncode or not names:
        pytest.skip('not a git checkout')
    return [path for path in map(ROOT.joinpath, names) if path.is_file()]


@pytest.fixture(scope='module')
def setup_arguments() -> dict:
    """Return what setup.py passes to setup()."""
    setuptools = pytest.importorskip('setuptools')
    seen: dict = {}
    before, folder = setuptools.setup, Path.cwd()
    setuptools.setup = lambda **arguments: seen.update(arguments)
    os.chdir(ROOT)
    try:
        runpy.run_path(str(ROOT / 'setup.py'))
    finally:
        setuptools.setup = before
        os.chdir(folder)
    return seen


@pytest.fixture(scope='module')
def manifest() -> ElementTree.Element:
    """Return package.xml."""
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def imported(folder: Path) -> dict[str, Path]:
    """Return the third-party modules imported anywhere under `folder`, with one importing file."""
    found: dict[str, Path] = {}
    for path in folder.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
            found.update({name.split('.')[0]: path for name in names if name})
    return {name: path for name, path in found.items()
            if name not in sys.stdlib_module_names and name != NAME}


def test_package_xml(manifest):
    """It has what REP 149 requires, and colcon's build type."""
    assert (manifest.tag, manifest.get('format')) == ('package', '3')
    assert manifest.findtext('name') == NAME
    assert manifest.findtext('license') == 'Apache-2.0'
    assert (ROOT / manifest.find('license').get('file')).is_file()
    assert '@' in manifest.find('maintainer').get('email')
    assert manifest.findtext('description').strip()
    assert manifest.findtext('export/build_type') == 'ament_python'
    assert manifest.find('buildtool_depend') is None  # there is no rosdep key for ament_python


def test_one_version(manifest, setup_arguments):
    versions = {manifest.findtext('version'), setup_arguments['version'],
                diffusion_policy_rt.__version__}
    assert len(versions) == 1
    assert versions.pop() in (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')


def test_every_import_is_declared(manifest, setup_arguments):
    depends = {element.text for element in manifest.iter('exec_depend')}
    extras = sum(setup_arguments['extras_require'].values(), [])
    requirements = {re.match(r'[\w.-]+', text)[0].lower()
                    for text in (*setup_arguments['install_requires'], *extras)}
    for name, path in {**imported(ROOT / NAME), **imported(ROOT / 'launch')}.items():
        declared = name in OPTIONAL or DEBIAN.get(name, name) in depends
        declared = declared or REQUIREMENT.get(name, name) in requirements
        assert declared, f'{path} imports {name}: declare it in package.xml or setup.py'


def test_ros_imports_are_in_package_xml_and_in_the_ros_extra(manifest, setup_arguments):
    depends = {element.text for element in manifest.iter('exec_depend')}
    extras = setup_arguments['extras_require']
    wheels, demo = set(extras['ros']), set(extras['demo'])
    for name, path in imported(ROOT / NAME / 'ros').items():
        if name in DEBIAN or REQUIREMENT.get(name, name) in demo:
            continue
        assert name in depends, f'{path} imports {name}, which package.xml lacks'
        assert f'ros-jazzy-{name.replace("_", "-")}' in wheels, f'{name} is not in the extra ros'


def test_light_install_suffices_for_help(tmp_path):
    """`dprt --help` needs none of the extras: a robot has only what install_requires lists."""
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys\n'
        "for name in ('av', 'gym_pusht', 'matplotlib', 'onnx', 'pyarrow', 'rclpy', 'rosbags',\n"
        "             'safetensors', 'torch', 'tqdm', 'zarr'):\n"
        '    sys.modules[name] = None\n')
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run([sys.executable, '-m', f'{NAME}.cli.main', '--help'],
                          env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'dprt' in done.stdout


def test_data_files_are_complete(setup_arguments):
    placed = {source: target for target, sources in setup_arguments['data_files']
              for source in sources}
    assert placed['package.xml'] == f'share/{NAME}'
    assert placed[f'resource/{NAME}'] == 'share/ament_index/resource_index/packages'
    for folder in ('launch', 'config'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                relative = path.relative_to(ROOT)
                expected = f'share/{NAME}/{relative.parent.as_posix()}'
                assert placed.get(str(relative)) == expected, f'{relative} is not installed'


def test_package_data_has_every_bundle(setup_arguments):
    data = set(setup_arguments['package_data'][NAME])
    assert 'py.typed' in data
    for path in (ROOT / NAME / 'bundles').rglob('*'):
        assert path.is_dir() or str(path.relative_to(ROOT / NAME)) in data


def test_packages_are_complete(setup_arguments):
    """A folder of code without __init__.py would be left out of an installation."""
    folders = {path.parent for path in (ROOT / NAME).rglob('*.py')}
    expected = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    assert expected == set(setup_arguments['packages'])


def test_entry_points(setup_arguments):
    programs = dict(re.split(r'\s*=\s*', text)
                    for text in setup_arguments['entry_points']['console_scripts'])
    assert set(programs) == {
        'dprt', 'policy_node', 'pusht_node', 'arm_node', 'bag_player'}
    for target in programs.values():
        module, function = target.split(':')
        if '.ros.' in module:
            pytest.importorskip('rclpy')
        assert callable(getattr(importlib.import_module(module), function))


def test_no_registry_and_no_machine_path_is_named():
    """Where packages come from and where the checkout lies is the reader's own business."""
    hosts = [b'py' + b'pi.org', b'python' + b'hosted.org', b'download.py' + b'torch.org',
             b'npm' + b'js.org', b'npm' + b'js.com', b'docker' + b'.io']
    folders = [b'/' + b'work/', b'/' + b'home/', b'/' + b'root/', b'/Us' + b'ers/']
    for path in tracked():
        if path.suffix in ('.safetensors', '.onnx', '.npz', '.png', '.gif', '.jpg', '.mcap'):
            continue
        text = path.read_bytes()
        for word in hosts + folders:
            assert word not in text, f'{path.relative_to(ROOT)} names {word.decode()}'


def test_no_pickles_and_no_large_files():
    """No pickle is stored, whatever it is called; bundles stay small enough to clone."""
    sizes = {path: path.stat().st_size for path in tracked()}
    for path in sizes:
        assert path.suffix not in PICKLES, path
        data = path.read_bytes()
        if path.suffix in ('.npy', '.npz'):
            loaded = np.load(path, allow_pickle=False)
            assert path.suffix == '.npy' or all(loaded[key] is not None for key in loaded)
        elif path.suffix != '.safetensors':  # starts with a length, which may look like anything
            assert not re.match(rb'\x80[\x02-\x05]', data), f'{path} is a pickle'
    bundles = sum(size for path, size in sizes.items() if 'bundles' in path.parts)
    assert bundles < 40 * MEBIBYTE
    for path, size in sizes.items():
        assert size < (25 if 'bundles' in path.parts else 2) * MEBIBYTE, f'{path} has {size} bytes'


def test_scripts_are_executable_and_parse():
    for name in ('.ci/run', 'tools/venv.sh'):
        assert os.access(ROOT / name, os.X_OK), name
        assert subprocess.run(['bash', '-n', ROOT / name]).returncode == 0


def test_lint():
    if find_spec('ruff') is None:
        pytest.skip('ruff is not installed; make check installs it')
    command = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise']
    done = subprocess.run([*command, '.'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(COLCON is None, reason='colcon is not installed')
@pytest.mark.parametrize('options', [(), ('--symlink-install',)], ids=['copy', 'symlink'])
def test_colcon_build(tmp_path, options):
    """What colcon installs is found through the ament index, the programs where ros2 run looks."""
    if options and int(version('setuptools').split('.')[0]) >= 80:
        pytest.skip('colcon --symlink-install needs setuptools below 80; modelopt asks for 80')
    source = tmp_path / 'src' / NAME
    for path in tracked():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = subprocess.run([COLCON, 'build', *options], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    prefix = tmp_path / 'install' / NAME
    assert (prefix / 'share/ament_index/resource_index/packages' / NAME).is_file()
    for program in ('dprt', 'policy_node', 'pusht_node'):
        assert os.access(prefix / 'lib' / NAME / program, os.X_OK)
    for path in tracked():
        relative = path.relative_to(ROOT)
        if relative.parts[0] in ('launch', 'config'):
            assert (prefix / 'share' / NAME / relative).is_file(), relative
    index = pytest.importorskip('ament_index_python')
    environment = os.environ.get('AMENT_PREFIX_PATH')
    os.environ['AMENT_PREFIX_PATH'] = str(prefix)
    try:
        assert Path(index.get_package_share_directory(NAME)) == prefix / 'share' / NAME
    finally:
        os.environ.pop('AMENT_PREFIX_PATH')
        if environment is not None:
            os.environ['AMENT_PREFIX_PATH'] = environment
