"""tools/install.py as a user meets it; pip, its packages and the compiler are fakes."""

import ast
import fcntl
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parents[1]

# Stands for pip inside an environment: fills site-packages and notes its calls. With a file
# `pip-says` it fails with that text. The sources of mmcv that it downloads compile without a
# compiler: each build adds to a file, and dies in an environment with a file `dies`.
FAKE_PIP = r"""
import os, sys, tarfile
from pathlib import Path

SETUP = '''
import os, signal, sys
from pathlib import Path
assert os.environ['MMCV_WITH_OPS'] == '1'
with open('compiled', 'a') as file:
    file.write('x')
if Path(sys.prefix, 'dies').exists():
    os.killpg(0, signal.SIGKILL)
Path(sys.argv[-1]).mkdir()
Path(sys.argv[-1], 'mmcv-%d.whl' % len(Path('compiled').read_text())).touch()
'''
prefix, site, args = Path(sys.prefix), Path(__file__).parents[1], sys.argv[1:]
with open(prefix / 'pip-calls', 'a') as calls:
    print(*args, file=calls)
if (prefix / 'pip-says').exists():
    sys.exit((prefix / 'pip-says').read_text())

def add(name, text='', version='1.2'):
    (site / name).mkdir(parents=True, exist_ok=True)
    (site / name / '__init__.py').write_text(f'__version__ = {version!r}\n{text}')

if 'download' in args:
    folder = Path(args[args.index('-d') + 1])
    (folder / 'mmcv').mkdir(parents=True)
    (folder / 'mmcv/setup.py').write_text(SETUP)
    with tarfile.open(folder / 'mmcv.tar.gz', 'w:gz') as archive:
        archive.add(folder / 'mmcv', 'mmcv')
elif args[-1].endswith('.whl'):
    add('mmcv')
    add('mmcv/ops', "get_compiling_cuda_version = lambda: 'not available'")
    if (prefix / 'broken').exists():
        add('mmcv/ops', 'raise ImportError("undefined symbol: _ZN3c10")')
        (prefix / 'broken').unlink()
    version = args[-1].split('/mmcv')[1].split('-')[0]
    info = site / 'onedl_mmcv-1.dist-info'
    info.mkdir(exist_ok=True)
    (info / 'METADATA').write_text(f'Name: onedl-mmcv\nVersion: {version}\n')
elif '-e' in args:
    add('mmpse')
elif '-r' in args:
    add('torch', 'class cuda: is_available = lambda: False\nclass version: cuda = None')
    add('torch/utils')
    add('torch/utils/cpp_extension', 'CUDA_HOME = None')
    for name in ('cv2', 'timm', 'mmengine', 'mmpretrain', 'mmdet', 'mmseg'):
        add(name)
        add(name + '/models')
    if (prefix / 'fails').exists():
        add('mmdet/models', 'raise ImportError("no mmcv of that age")')
"""


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
        self.checkout, self.bin, self.cache = folder / 'checkout', folder / 'bin', folder / 'cache'
        self.tool = self.checkout / 'tools/install.py'
        (self.checkout / 'mmpse/.mim/tools').mkdir(parents=True)
        self.tool.parent.mkdir()
        shutil.copy(REPO / 'tools/install.py', self.tool)
        shutil.copy(REPO / 'setup.py', self.checkout)
        shutil.copytree(REPO / 'requirements', self.checkout / 'requirements')
        program(self.bin / 'c++', 'exit 0')
        self.new_environment(folder / 'env')

    def new_environment(self, env: Path) -> None:
        """What makes a virtual environment, without the seconds that `python -m venv` takes."""
        self.env, base = env, Path(sys._base_executable)
        write(env / 'pyvenv.cfg', f'home = {base.parent}\ninclude-system-site-packages = false\n')
        (env / 'bin').mkdir()
        (env / 'bin/python').symlink_to(base)
        self.site = env / 'lib/python{}.{}/site-packages'.format(*sys.version_info)
        write(self.site / 'pip/__init__.py')
        write(self.site / 'pip/__main__.py', FAKE_PIP)

    def start(self, **environ: str) -> 'subprocess.Popen[str]':
        environ = {'VIRTUAL_ENV': str(self.env), 'MMPSE_CACHE': str(self.cache), **environ}
        return subprocess.Popen(
            [sys.executable, self.tool],
            env={'PATH': str(self.bin), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def install(self, **environ: str) -> SimpleNamespace:
        """Run it to its end, from clean notes."""
        calls = self.env / 'pip-calls'
        calls.unlink(missing_ok=True)
        process = self.start(**environ)
        out, err = process.communicate(timeout=30)
        pip = calls.read_text().splitlines() if calls.exists() else []
        return SimpleNamespace(code=process.returncode, out=out, err=err, pip=pip)

    def kept(self) -> list[str]:
        return [path.name for path in self.cache.glob('*/*')]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('install', REPO / 'tools/install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_python(path: Path, version: str) -> str:
    answer = f'{{"version": [{version}], "prefix": "/"}}'
    return program(path, f"[ $1 = -m ] && echo $2 $3 > $0.ran || echo '{answer}'")


def test_installs_proves_and_then_has_nothing_to_do(bench):
    first = bench.install()
    assert first.code == 0, first.err
    assert any('lock.txt' in call and '--no-deps' in call for call in first.pip)
    assert 'The stack is in order' in first.out and 'mmcv.ops 1.2' in first.out
    assert bench.kept() == ['mmcv-1.whl']

    second = bench.install()
    assert second.code == 0 and second.pip == []
    assert 'The stack is in order' in second.out and 'torch 1.2' in second.out


@pytest.mark.parametrize('change', ['lock', 'package', 'stamp', 'mim'])
def test_a_change_makes_it_look_again_but_not_compile(bench, change):
    bench.install()
    if change == 'lock':
        write(bench.checkout / 'requirements/lock.txt', 'torch==2.12.0')
    elif change == 'package':
        (bench.site / 'torch-2.13.0.dist-info').mkdir()
    elif change == 'stamp':
        write(bench.env / 'mmpse-install.json', '{"sta')  # killed while it wrote
    else:
        shutil.rmtree(bench.checkout / 'mmpse/.mim')
    again = bench.install()
    assert again.code == 0, again.err
    assert again.pip and not any('mmcv' in call for call in again.pip)


def test_killed_while_compiling_it_continues_in_the_same_folder(bench):
    write(bench.env / 'dies')
    assert bench.install().code == -9
    (bench.env / 'dies').unlink()
    again = bench.install()
    assert again.code == 0, again.err
    assert not any('download' in call for call in again.pip)
    assert bench.kept() == ['mmcv-2.whl']  # of the second run in that folder


def test_the_next_environment_takes_the_kept_wheel_and_needs_no_compiler(bench, tmp_path):
    bench.install()
    bench.new_environment(tmp_path / 'other')
    (bench.bin / 'c++').unlink()
    other = bench.install()
    assert other.code == 0, other.err
    assert not any('download' in call for call in other.pip)


def test_a_kept_wheel_that_does_not_work_is_built_anew(bench, tmp_path):
    bench.install()
    bench.new_environment(tmp_path / 'other')
    write(bench.env / 'broken')
    other = bench.install()
    assert other.code == 0, other.err
    assert any('download' in call for call in other.pip)


def test_a_new_wheel_that_does_not_work_is_said_and_not_kept(bench):
    write(bench.env / 'broken')
    result = bench.install()
    assert result.code == 1 and 'undefined symbol: _ZN3c10' in result.err
    assert bench.kept() == []


def test_mmcv_without_ops_is_replaced(bench):
    write(bench.site / 'mmcv/__init__.py')
    write(bench.site / 'onedl_mmcv-1.dist-info/METADATA', 'Name: onedl-mmcv\nVersion: 2.3.6\n')
    result = bench.install()
    assert result.code == 0, result.err
    assert any(call.endswith('mmcv-1.whl') for call in result.pip)


def test_a_package_that_does_not_import_fails_the_proof(bench):
    write(bench.env / 'fails')
    result = bench.install()
    assert result.code == 1 and 'no mmcv of that age' in result.err
    assert not (bench.env / 'mmpse-install.json').exists()


@pytest.mark.parametrize(
    ('pip_says', 'advice'),
    [
        ('NewConnectionError: name resolution\nERROR: No matching distribution', 'cannot be reach'),
        ('error: Failed to fetch: torch\n  dns error: failed to lookup', 'cannot be reached'),
        ('OSError: [Errno 28] No space left on device', 'disk is full'),
        ('error: externally-managed-environment', 'leave out PYTHON='),
        ('something else', 'mend what it says'),
    ],
)
def test_pip_failing_is_explained_on_one_line(bench, pip_says, advice):
    write(bench.env / 'pip-says', pip_says)
    result = bench.install()
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert advice in result.err and '`make install` continues' in result.err
    assert pip_says.splitlines()[-1].strip() in result.err
    assert str(bench.env / 'mmpse-install.log') in result.err


@pytest.mark.parametrize('compiler', ['missing', 'fails'])
def test_no_compiler_is_said_before_anything_is_downloaded(bench, compiler):
    program(bench.bin / 'fails', 'echo "fatal error: Python.h: No such file" >&2; exit 1')
    result = bench.install(CXX=compiler)
    assert result.code == 1 and len(result.err.splitlines()) == 1 and result.pip == []
    assert 'need a C++17 compiler and Python.h' in result.err and 'No such file' in result.err


@pytest.mark.parametrize('version', ['3, 6', '3, 9', '3, 14'])
def test_environment_of_an_unsupported_python(bench, version):
    result = bench.install(PYTHON=fake_python(bench.bin / 'mine', version))
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert f'is Python {version.replace(", ", ".")}, and mmpse needs 3.10 to 3.13' in result.err


def test_environment_that_is_gone(bench):
    result = bench.install(VIRTUAL_ENV='/gone')
    assert result.code == 1 and '/gone/bin/python does not run' in result.err


def test_venv_is_made_with_a_python_that_fits(tool, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(tool, 'VENV', tmp_path / '.venv')
    monkeypatch.setattr(sys, 'executable', fake_python(tmp_path / 'python3', '3, 6'))
    with pytest.raises(tool.Problem, match=r'is Python 3\.6, and mmpse needs 3\.10'):
        tool.make_venv()
    program(tmp_path / 'uv', 'echo $* > $0.ran')
    tool.make_venv()
    assert (tmp_path / 'uv.ran').read_text() == f'venv --python 3.12 {tmp_path}/.venv\n'
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
    write(bench.cache / 'lock')
    with (bench.cache / 'lock').open('r+') as lock:
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
