"""tools/install.py as a user meets it; pip, its packages, the compiler and the disk are fakes."""

import ast
import fcntl
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parents[1]

# Stands for pip inside an environment: copies packages from registry/ and notes its calls.
# With a file `pip-says` it fails with that text, with `pip-dies` it is killed while compiling.
FAKE_PIP = r"""
import os, re, shutil, signal, sys, tarfile
from pathlib import Path

prefix, site, args = Path(sys.prefix), Path(__file__).parents[1], sys.argv[2:]
option = lambda name: Path(args[args.index(name) + 1])
with open(prefix / 'pip-calls', 'a') as calls:
    print(*args, file=calls)
if (prefix / 'pip-says').exists():
    sys.exit((prefix / 'pip-says').read_text())

if args[0] == 'download':
    (option('-d') / 'mmcv').mkdir(parents=True)
    with tarfile.open(option('-d') / 'mmcv.tar.gz', 'w:gz') as archive:
        archive.add(option('-d') / 'mmcv', 'mmcv')
elif args[0] == 'wheel':
    assert os.environ['MMCV_WITH_OPS'] == '1' and '--no-build-isolation' in args
    with open(Path(args[-1], 'compiled'), 'a') as file:
        print(len(args), file=file)
    if (prefix / 'pip-dies').exists():
        os.killpg(0, signal.SIGKILL)
    option('-w').mkdir()
    Path(option('-w'), f'mmcv-{len(Path(args[-1], "compiled").read_text().split())}.whl').touch()
else:
    what = 'mmpse' if '-e' in args else 'ops' if args[-1].endswith('.whl') else 'packages'
    what = 'headless' if 'headless' in args[-1] else what
    shutil.copytree(prefix / 'registry' / what, site, dirs_exist_ok=True)
    files = [Path(arg).read_text() for arg in args if arg.endswith('.txt')]
    for name, version in re.findall(r'^([\w-]+)==(\S+)', '\n'.join(args + files), re.M):
        info = site / (name.replace('-', '_') + '.dist-info')
        info.mkdir(exist_ok=True)
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
"""
# Runs a script on a disk of a given size.
WITH_DISK = """
import runpy, shutil, sys, types
gigabytes, script = sys.argv[1:]
shutil.disk_usage = lambda folder: types.SimpleNamespace(free=float(gigabytes) * 1e9)
sys.argv = [script]
runpy.run_path(script, run_name='__main__')
"""
REGISTRY = {
    'packages/torch': 'class cuda: is_available = lambda: False\nclass version: cuda = None',
    'packages/torch/utils': '',
    'packages/torch/utils/cpp_extension': 'CUDA_HOME = None',
    'packages/torchvision': '',
    'packages/timm': '',
    'packages/cv2': '',
    'packages/mmengine': '',
    'packages/mmpretrain': '',
    'packages/mmpretrain/models': '',
    'packages/mmdet': '',
    'packages/mmdet/models': '',
    'packages/mmseg': '',
    'packages/mmseg/models': '',
    'headless/cv2': '',
    'ops/mmcv': '',
    'ops/mmcv/ops': "get_compiling_cuda_version = lambda: 'not available'",
    'mmpse/mmpse': '',
}


def write(path: Path, text: str = '') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def program(path: Path, text: str) -> str:
    """A shell script that can be run."""
    write(path, f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return str(path)


class Bench:
    """A checkout and an environment whose surroundings are under control."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.env, self.bin = folder / 'checkout', folder / 'env', folder / 'bin'
        self.tool = self.checkout / 'tools/install.py'
        (self.checkout / 'mmpse/.mim/tools').mkdir(parents=True)
        self.tool.parent.mkdir()
        shutil.copy(REPO / 'tools/install.py', self.tool)
        shutil.copy(REPO / 'setup.py', self.checkout)
        shutil.copytree(REPO / 'requirements', self.checkout / 'requirements')
        program(self.bin / 'c++', 'exit 0')

        # what makes a virtual environment, without the seconds that `python -m venv` takes
        base = Path(sys._base_executable)
        config = f'home = {base.parent}\ninclude-system-site-packages = false\n'
        write(self.env / 'pyvenv.cfg', config)
        (self.env / 'bin').mkdir()
        (self.env / 'bin/python').symlink_to(base)
        self.site = self.env / 'lib/python{}.{}/site-packages'.format(*sys.version_info)
        write(self.site / 'pip/__init__.py')
        write(self.site / 'pip/__main__.py', FAKE_PIP)
        for name, text in REGISTRY.items():
            self.offer(name, text)
        metadata = 'Name: opencv-python\nVersion: 4.12\n'
        write(self.env / 'registry/packages/opencv_python.dist-info/METADATA', metadata)

    def offer(self, name: str, text: str) -> None:
        write(self.env / f'registry/{name}/__init__.py', f"__version__ = '1.2'\n{text}\n")

    def start(self, disk_gb: float = 100, **environ: str) -> 'subprocess.Popen[str]':
        return subprocess.Popen(
            [sys.executable, '-c', WITH_DISK, str(disk_gb), self.tool],
            env={'PATH': str(self.bin), 'VIRTUAL_ENV': str(self.env), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def install(self, disk_gb: float = 100, **environ: str) -> SimpleNamespace:
        """Run it to its end, from clean notes."""
        calls = self.env / 'pip-calls'
        calls.unlink(missing_ok=True)
        process = self.start(disk_gb, **environ)
        out, err = process.communicate(timeout=30)
        pip = calls.read_text().splitlines() if calls.exists() else []
        return SimpleNamespace(code=process.returncode, out=out, err=err, pip=pip)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('install', REPO / 'tools/install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_python(path: Path, version: str, venv: str = 'true') -> str:
    answer = f'{{"version": [{version}], "prefix": "/", "include": "", "venv": {venv}}}'
    return program(path, f"[ $1 = -m ] && echo $2 $3 > $0.ran || echo '{answer}'")


def test_installs_proves_and_then_has_nothing_to_do(bench):
    first = bench.install()
    assert first.code == 0, first.err
    assert 'about' in first.out and 'minutes' in first.out
    commands = [call.split()[0] for call in first.pip]
    assert commands == ['install', 'download', 'wheel', 'install', 'install']
    assert 'pytest==' in first.pip[0] and 'torch-pruning==' in first.pip[0]  # for the tests
    assert all(
        name + ' 1.2\n' in first.out for name in ('torch', 'mmcv.ops', 'mmseg.models', 'mmpse')
    )
    assert 'The stack is in order' in first.out

    second = bench.install()
    assert second.code == 0 and second.pip == []
    assert 'The stack is in order' in second.out and 'torch 1.2' in second.out


def test_a_change_makes_it_look_again_but_not_compile(bench):
    def look_again() -> None:
        again = bench.install()
        assert again.code == 0, again.err
        assert [call.split()[0] for call in again.pip] == ['install', 'install']

    bench.install()
    write(bench.checkout / 'requirements/optional.txt', 'onnx>1')
    look_again()
    write(bench.site / 'torch.dist-info/METADATA', 'Name: torch\nVersion: 2.13.0\n')
    look_again()
    write(bench.env / 'mmpse-install.json', '{"fingerp')  # killed while it wrote
    look_again()
    shutil.rmtree(bench.checkout / 'mmpse/.mim')
    look_again()


def test_killed_while_compiling_it_continues_in_the_same_folder(bench):
    write(bench.env / 'pip-dies')
    assert bench.install().code == -9
    (bench.env / 'pip-dies').unlink()
    again = bench.install()
    assert again.code == 0, again.err
    assert not any(call.startswith('download') for call in again.pip)
    assert any('mmcv-2.whl' in call for call in again.pip)  # the second run in that folder
    assert not (bench.env / 'mmpse-build').exists()


def test_mmcv_without_ops_is_compiled_although_its_version_is_right(bench):
    bench.offer('packages/mmcv', '')
    write(bench.site / 'onedl_mmcv.dist-info/METADATA', 'Name: onedl-mmcv\nVersion: 2.3.6\n')
    result = bench.install()
    assert result.code == 0, result.err
    assert any(call.startswith('wheel') for call in result.pip)


def test_ops_that_do_not_work_are_said_and_not_kept(bench):
    bench.offer('ops/mmcv/ops', 'raise ImportError("undefined symbol: _ZN3c10")')
    result = bench.install()
    assert result.code == 1 and 'undefined symbol: _ZN3c10' in result.err
    assert not (bench.env / 'mmpse-build').exists()


def test_opencv_that_lacks_libgl_is_mended(bench):
    bench.offer('packages/cv2', 'raise ImportError("libGL.so.1: cannot open shared object file")')
    result = bench.install()
    assert result.code == 0, result.err
    assert any(call.endswith('opencv-python-headless==4.12') for call in result.pip)


def test_a_package_that_does_not_import_fails_the_proof(bench):
    bench.offer('packages/mmdet/models', 'raise ImportError("no mmcv of that age")')
    result = bench.install()
    assert result.code == 1
    assert 'mmdet.models does not import: ImportError: no mmcv of that age' in result.err
    assert not (bench.env / 'mmpse-install.json').exists()


@pytest.mark.parametrize(
    ('pip_says', 'advice'),
    [
        ('NewConnectionError: name resolution\nERROR: No matching distribution', 'cannot reach'),
        ('ERROR: No matching distribution found for torch==2.11.0', 'lacks a package'),
        ('OSError: [Errno 28] No space left on device', 'disk is full'),
        ('error: externally-managed-environment', 'leave out PYTHON='),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('something else', 'The last lines say'),
    ],
)
def test_pip_failing_is_explained(bench, pip_says, advice):
    write(bench.env / 'pip-says', pip_says)
    result = bench.install()
    assert result.code == 1
    assert advice in result.err and '`make install` continues' in result.err
    assert pip_says.splitlines()[-1] in result.err
    assert str(bench.env / 'mmpse-install.log') in result.err


def test_no_compiler_is_said_before_anything_is_downloaded(bench):
    (bench.bin / 'c++').unlink()
    result = bench.install()
    assert result.code == 1 and 'No C++ compiler' in result.err and result.pip == []


def test_no_python_headers(bench):
    program(bench.bin / 'c++', 'echo "fatal error: Python.h: No such file" >&2; exit 1')
    result = bench.install()
    assert result.code == 1 and 'No Python.h in' in result.err and result.pip == []


def test_old_compiler(bench):
    program(bench.bin / 'old', 'echo "unrecognized option -std=c++17" >&2; exit 1')
    result = bench.install(CXX='old')
    assert result.code == 1 and 'unrecognized option -std=c++17' in result.err


def test_no_disk(bench):
    result = bench.install(disk_gb=2.5)
    assert result.code == 1 and 'has 2.5 GB free, and this step needs 9 GB' in result.err
    assert result.pip == []


@pytest.mark.parametrize('version', ['3, 6', '3, 9', '3, 14'])
def test_environment_of_an_unsupported_python(bench, version):
    python = fake_python(bench.bin / 'mine', version)
    result = bench.install(PYTHON=python)
    assert result.code == 1
    assert f'is Python {version.replace(", ", ".")}; mmpse needs Python 3.10 to 3.13' in result.err


def test_environment_that_is_gone(bench):
    result = bench.install(VIRTUAL_ENV='/gone')
    assert result.code == 1 and '/gone/bin/python does not run' in result.err


def test_venv_is_made_with_a_python_that_fits(tool, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'executable', fake_python(tmp_path / 'python3', '3, 6'))
    with pytest.raises(tool.Problem, match=r'Found Python 3\.6 .*; mmpse needs Python 3\.10'):
        tool.make_venv()
    fake_python(tmp_path / 'python3.11', '3, 11', venv='false')
    with pytest.raises(tool.Problem, match='no venv module.*python3.11-venv'):
        tool.make_venv()
    fake_python(tmp_path / 'python3.12', '3, 12')
    tool.make_venv()
    assert (tmp_path / 'python3.12.ran').read_text() == f'venv {tmp_path}/.venv\n'


@pytest.mark.parametrize(
    ('environ', 'python'),
    [
        ({}, f'{REPO}/.venv/bin/python'),
        ({'VIRTUAL_ENV': '/v'}, '/v/bin/python'),
        ({'CONDA_PREFIX': '/c', 'CONDA_DEFAULT_ENV': 'mine'}, '/c/bin/python'),
        ({'CONDA_PREFIX': '/c', 'CONDA_DEFAULT_ENV': 'base'}, f'{REPO}/.venv/bin/python'),
        ({'PYTHON': '/p/python', 'VIRTUAL_ENV': '/v'}, '/p/python'),
    ],
)
def test_which_environment(tool, monkeypatch, environ, python):
    for name in ('PYTHON', 'VIRTUAL_ENV', 'CONDA_PREFIX', 'CONDA_DEFAULT_ENV'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert tool.target_python() == python


def test_make_runs_the_python_that_it_is_given(tmp_path):
    python = tmp_path / 'python'
    python.symlink_to(sys.executable)
    make = ['make', '--dry-run', 'test', f'PYTHON={python}']
    commands = subprocess.run(make, cwd=REPO, text=True, capture_output=True, check=True).stdout
    assert f'"{python}" -m pytest' in commands


def test_two_installs_do_not_mix(bench):
    write(bench.env / 'pip-says', 'end of test')
    with bench.tool.open('r+') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = bench.start()
        assert 'waiting' in second.stdout.readline()
        assert second.poll() is None
    assert '[1/4]' in second.communicate(timeout=30)[0]


def test_progress_counts_the_files_that_are_left(tool):
    output = 'noise\n  [3/78] c++ -c a.cpp\n  [12/78] c++ -c b.cpp\nwarning\n'
    assert tool.progress(output, 60) == '1:00  compiled 12 of 78 files, about 5:30 to go'
    assert tool.progress('[1/78] c++', 9) == '0:09  compiled 1 of 78 files'
    assert tool.progress('Collecting torch\n', 5) == '0:05  Collecting torch'


def test_an_old_python_can_read_it():
    ast.parse((REPO / 'tools/install.py').read_text(), feature_version=(3, 6))


@pytest.mark.parametrize('kind', ['wheel', 'editable'])
def test_configs_and_tools_are_packaged_for_mim(tmp_path, kind):
    for name in (
        'mmpse/__init__.py',
        'configs/a/b.py',
        'tools/train.py',
        'mmpse/.mim/configs/old.py',
    ):
        write(tmp_path / name, '1')
    for name in ('setup.py', 'requirements', 'model-index.yml', 'mmpse/version.py'):
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, tmp_path / name)
    code = f'from setuptools import build_meta; build_meta.build_{kind}(".")'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, stdout=subprocess.PIPE)
    (wheel,) = tmp_path.glob('mmpse-*.whl')
    packed = [name for name in zipfile.ZipFile(wheel).namelist() if '/.mim/' in name]
    if kind == 'wheel':
        files = ['configs/a/b.py', 'model-index.yml', 'tools/train.py']
        assert sorted(packed) == [f'mmpse/.mim/{name}' for name in files]
    else:
        (tmp_path / 'configs/a/b.py').write_text('2')
        assert (tmp_path / 'mmpse/.mim/configs/a/b.py').read_text() == '2'
        assert not (tmp_path / 'mmpse/.mim/configs/old.py').exists()
