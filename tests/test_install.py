"""`make install` as a user meets it; pip, its packages and the compiler are fakes."""

import ast
import fcntl
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parents[1]
MAKE = shutil.which('make')

# Stands for pip inside an environment: fills site-packages and notes its calls. With a file `says`
# in the environment it fails with that text. The sources of mmcv that it downloads need no
# compiler: a build adds to a file, and dies with a file `dies`.
FAKE_PIP = r"""
import sys, tarfile
from pathlib import Path

SETUP = '''
import os, signal, sys
from pathlib import Path
assert os.environ['MMCV_WITH_OPS'] == '1'
open('compiled', 'a').write('x')
if Path(sys.prefix, 'dies').exists():
    os.killpg(0, signal.SIGKILL)
Path(sys.argv[-1]).mkdir()
Path(sys.argv[-1], 'mmcv-%d.whl' % len(Path('compiled').read_text())).touch()
'''
prefix, site, args = Path(sys.prefix), Path(__file__).parents[1], sys.argv[1:]
print(*args, file=open(prefix / 'pip-calls', 'a'))
if (prefix / 'says').exists():
    sys.exit((prefix / 'says').read_text())

def add(name, text=''):
    (site / name).mkdir(parents=True, exist_ok=True)
    (site / name / '__init__.py').write_text("__version__ = '1.2'\n" + text)

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
    (site / 'onedl_mmcv.dist-info').mkdir(exist_ok=True)
    (site / 'onedl_mmcv.dist-info/METADATA').write_text(f'Name: onedl-mmcv\nVersion: {version}\n')
elif '-e' in args:
    add('mmpse')
elif '-r' in args:
    add('torch', 'class cuda: is_available = lambda: False\nclass version: cuda = None')
    add('torch/utils')
    add('torch/utils/cpp_extension', 'CUDA_HOME = None')
    for name in ('cv2', 'timm', 'mmengine', 'mmpretrain', 'mmdet', 'mmseg'):
        add(name)
        add(name + '/models')
"""


def write(path: Path, text: str = '') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def program(path: Path, text: str) -> None:
    """A shell script that can be run."""
    write(path, f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)


class Bench:
    """A checkout and an environment whose surroundings are under control."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.cache = folder / 'checkout', folder / 'bin', folder / 'cache'
        (self.checkout / 'mmpse/.mim/tools').mkdir(parents=True)
        (self.checkout / 'tools').mkdir()
        for name in ('tools/install.py', 'setup.py', 'Makefile'):
            shutil.copy(REPO / name, self.checkout / name)
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

    def make(self, *target: str, **environ: str) -> 'subprocess.Popen[str]':
        return subprocess.Popen(
            [MAKE, '--no-print-directory', *target],
            cwd=self.checkout,
            env={'PATH': str(self.bin), 'MMPSE_CACHE': str(self.cache), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def install(self, fails: bool = False, **environ: str) -> SimpleNamespace:
        """Run it to its end; `pip` lists its calls, `error` is all that it says beside make."""
        calls = self.env / 'pip-calls'
        calls.unlink(missing_ok=True)
        process = self.make('install', **{'VIRTUAL_ENV': str(self.env), **environ})
        out, err = process.communicate(timeout=30)
        assert (process.returncode != 0) == fails, err
        pip = calls.read_text().splitlines() if calls.exists() else []
        error = '\n'.join(line for line in err.splitlines() if not line.startswith('make: '))
        assert error.count('\n') == 0
        return SimpleNamespace(out=out, error=error, pip=pip)

    def kept(self) -> list[str]:
        return [path.name for path in self.cache.glob('*/*')]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('install', REPO / 'tools/install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_installs_proves_and_then_has_nothing_to_do_until_something_changes(bench):
    first = bench.install()
    assert any('lock.txt' in call and '--no-deps' in call for call in first.pip)
    assert 'The stack is in order' in first.out and 'mmcv.ops 1.2' in first.out
    second = bench.install()
    assert 'The stack is in order' in second.out and second.pip == []
    for change in (
        lambda: write(bench.checkout / 'requirements/lock.txt', 'torch==2.12.0'),
        lambda: (bench.site / 'torch-2.13.0.dist-info').mkdir(),
        lambda: write(bench.env / 'mmpse-install.json', '{"sta'),  # killed while it wrote
        lambda: shutil.rmtree(bench.checkout / 'mmpse/.mim'),
    ):
        change()
        again = bench.install()
        assert again.pip and not any('mmcv' in call for call in again.pip)


def test_killed_while_compiling_it_continues_in_the_same_folder(bench):
    write(bench.env / 'dies')
    bench.install(fails=True)
    (bench.env / 'dies').unlink()
    assert not any('download' in call for call in bench.install().pip)
    assert bench.kept() == ['mmcv-2.whl']  # of the second run in that folder


def test_the_next_environment_takes_the_kept_wheel_and_needs_no_compiler(bench, tmp_path):
    bench.install()
    (bench.bin / 'c++').unlink()
    bench.new_environment(tmp_path / 'other')
    assert not any('download' in call for call in bench.install().pip)


def test_a_kept_wheel_that_does_not_work_is_built_anew_and_a_new_one_is_not_kept(bench, tmp_path):
    bench.install()
    bench.new_environment(tmp_path / 'second')
    write(bench.env / 'broken')
    assert any('download' in call for call in bench.install().pip)
    shutil.rmtree(bench.cache)
    bench.new_environment(tmp_path / 'third')
    write(bench.env / 'broken')
    assert 'undefined symbol: _ZN3c10' in bench.install(fails=True).error
    assert bench.kept() == [] and not (bench.env / 'mmpse-install.json').exists()


def test_mmcv_without_ops_is_replaced(bench):
    write(bench.site / 'mmcv/__init__.py')
    write(bench.site / 'onedl_mmcv.dist-info/METADATA', 'Name: onedl-mmcv\nVersion: 2.3.6\n')
    assert any(call.endswith('mmcv-1.whl') for call in bench.install().pip)


@pytest.mark.parametrize(
    ('says', 'error'),
    [
        (
            'NewConnectionError(...)\nERROR: No matching distribution',
            'no way to the package registr',
        ),
        ('error: Failed to fetch\n  dns error: failed to lookup', 'no way to the'),
        ('error: externally-managed-environment\n\nhint: PEP 668', 'error: externally-managed-env'),
        (
            'a.cpp\nfatal error: Killed signal\nRuntimeError: compiling',
            'fatal error: Killed signal',
        ),
    ],
)
def test_pip_failing_is_explained(bench, says, error):
    write(bench.env / 'says', says)
    said = bench.install(fails=True).error
    assert error in said and '`make install` continues' in said
    assert str(bench.env / 'mmpse-install.log') in said


@pytest.mark.parametrize('compiler', ['missing', 'fails'])
def test_no_compiler_is_said_before_anything_is_downloaded(bench, compiler):
    program(bench.bin / 'fails', 'echo "fatal error: Python.h: No such file" >&2; exit 1')
    result = bench.install(fails=True, CXX=compiler)
    assert 'need a C++17 compiler and Python.h' in result.error and 'No such file' in result.error
    assert result.pip == []


@pytest.mark.parametrize('version', [(3, 6), (3, 9), (3, 14)])
def test_environment_of_an_unsupported_python(tool, monkeypatch, capsys, version):
    ast.parse((REPO / 'tools/install.py').read_text(), feature_version=(3, 6))
    monkeypatch.setattr(tool.sys, 'version_info', version)
    status = tool.main()
    monkeypatch.undo()
    found = '.'.join(map(str, version))
    assert f'is Python {found}, and mmpse needs 3.10 to 3.13' in capsys.readouterr().err and status


@pytest.mark.parametrize(
    ('environ', 'python'),
    [
        ({}, '{checkout}/.venv/bin/python'),
        ({'VIRTUAL_ENV': '/v'}, '/v/bin/python'),
        ({'CONDA_PREFIX': '/c', 'CONDA_DEFAULT_ENV': 'mine'}, '/c/bin/python'),
        ({'CONDA_PREFIX': '/c', 'CONDA_DEFAULT_ENV': 'base'}, '{checkout}/.venv/bin/python'),
        ({'PYTHON': '/p/python', 'VIRTUAL_ENV': '/v'}, '/p/python'),
    ],
)
def test_which_environment(bench, environ, python):
    commands = bench.make('--dry-run', 'test', **environ).communicate(timeout=30)[0]
    python = python.format(checkout=bench.checkout)
    assert f'"{python}" -I tools/install.py' in commands and f'"{python}" -m pytest' in commands
    assert ('-m venv .venv' in commands) == python.endswith('.venv/bin/python')


def test_venv_is_made_with_a_python_that_fits(bench):
    venv = lambda: ''.join(bench.make('.venv/bin/python').communicate(timeout=30))  # noqa: E731
    program(bench.bin / 'python3', 'exit 1')  # an old one, or pyenv's that is not there
    assert 'found no Python 3.10 to 3.13' in venv()
    program(bench.bin / 'uv', 'echo uv $*')
    assert venv() == 'uv venv --python 3.12 .venv\n'
    program(bench.bin / 'python3.11', '[ $1 = -c ] || echo 3.11 $*')
    assert venv() == '3.11 -m venv .venv\n'


def test_two_installs_do_not_mix(bench):
    write(bench.env / 'says', 'end of test')
    write(bench.cache / 'lock')
    with (bench.cache / 'lock').open('r+') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = bench.make('install', VIRTUAL_ENV=str(bench.env))
        assert 'waiting' in second.stdout.readline()
        assert second.poll() is None
    assert '[1/4]' in second.communicate(timeout=30)[0]


def test_progress_counts_the_files_that_are_left(tool):
    output = 'noise\n  [3/78] c++ -c a.cpp\n  [12/78] c++ -c b.cpp\nwarning\n'
    assert tool.progress(output, 60) == '1:00  compiled 12 of 78 files, about 5:30 to go'
    assert tool.progress('Collecting torch\n', 5) == '0:05  Collecting torch'
