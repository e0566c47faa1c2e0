#!/usr/bin/env python3
"""Install mmpse and the OpenMMLab stack it runs on: what `make install` runs.

The environment is the one `PYTHON=` names, else the active one, else `.venv`, made if missing.
What is done is not done again: an interrupted install continues, a finished one says so at once.
The built wheel of mmcv is kept for the next environment, in MMPSE_CACHE (default ~/.cache/mmpse).
Standard library only and readable by Python 3.6, so that an old Python gets a useful answer.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
LOCK = ROOT / 'requirements/lock.txt'  # everything but mmcv
MM = ROOT / 'requirements/mminstall.txt'
CACHE = os.environ.get('MMPSE_CACHE') or os.environ.get('XDG_CACHE_HOME', '~/.cache') + '/mmpse'
GB_PER_JOB = 2  # memory: one compiler takes up to 1.5

# what the output of a failed command means, and what to do about it
CAUSES = (
    ('No space left on device', 'the disk is full: free some space, or set TMPDIR or MMPSE_CACHE'),
    (
        'NewConnectionError|NameResolutionError|Connect(ion|Timeout)Error|Max retries|ProxyError'
        '|SSLError|[Cc]onnection (refused|reset)|Network is unreachable|[Tt]imed out|dns error',
        'the package registry cannot be reached: mend the network, HTTPS_PROXY or `pip config`',
    ),
    ('No matching distribution found', 'the registry of `pip config list` lacks a package'),
    ('externally.managed|Permission denied', 'leave out PYTHON=, and .venv is made'),
    ('Killed|[Oo]ut of memory', 'the memory did not suffice: set MAX_JOBS=1'),
    ('', 'mend what it says'),
)

# run by the Python that is installed for
PROBE = """
import json, sys, sysconfig
print(json.dumps(dict(sysconfig.get_paths(), prefix=sys.prefix, version=sys.version_info[:2])))
"""
# what mmcv's ops depend on, and a note. It compiles for CUDA if torch sees a GPU, and fails
# without the compiler of torch's CUDA release
FITTING = """
import os, subprocess, sys, torch
from torch.utils.cpp_extension import CUDA_HOME
cuda, device, note = torch.version.cuda or 'none', 'cpu', ''
if torch.cuda.is_available():
    nvcc = os.path.join(CUDA_HOME or '', 'bin', 'nvcc')
    known = subprocess.check_output([nvcc, '--version'], text=True) if os.path.exists(nvcc) else ''
    cards = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    if 'release %s.' % cuda.split('.')[0] in known:
        device = '-'.join('sm%d%d' % card for card in sorted(cards))
    else:
        note = 'there is a GPU, but no nvcc of CUDA %s on PATH: NMS will use the CPU' % cuda
print('torch%s-cp%d%d-%s' % (torch.__version__, *sys.version_info[:2], device), note, sep='\\n')
"""
OPS = """
import importlib.metadata, sys
from mmcv.ops import get_compiling_cuda_version
version, fitting = sys.argv[1:]
if importlib.metadata.version('onedl-mmcv') != version:
    sys.exit('another version')
if not fitting.endswith('cpu') and get_compiling_cuda_version() == 'not available':
    sys.exit('no ops for CUDA')
"""
PROOF = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, sys.modules[name.split('.')[0]].__version__)
"""
PROVED = 'torch cv2 timm mmengine mmcv.ops mmpretrain.models mmdet.models mmseg.models mmpse'


class Problem(Exception):
    """What stops the install: what was found, what is needed, what to do."""


def ask(python: str, code: str, *args: str) -> 'subprocess.CompletedProcess[str]':
    """Run a piece of code that sees installed packages only: not this folder, not PYTHONPATH."""
    pipe, command = subprocess.PIPE, [python, '-I', '-c', code, *args]
    return subprocess.run(command, stdout=pipe, stderr=pipe, universal_newlines=True)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ['it said nothing'])[-1].strip()


def probe(python: str) -> Dict[str, Any]:
    """Version and folders of a Python that the locked packages are published for."""
    try:
        info = json.loads(ask(python, PROBE).stdout)
    except (OSError, ValueError):
        raise Problem(f'{python} does not run: remove it, or name another: PYTHON=') from None
    if not [3, 10] <= info['version'] <= [3, 13]:
        raise Problem(
            '%s is Python %d.%d, and mmpse needs 3.10 to 3.13: install one (Debian, Ubuntu: apt '
            'install python3-venv) or name one: make install PYTHON=' % (python, *info['version'])
        )
    return info


def target_python() -> str:
    """The Python to install for: PYTHON=, else that of the active environment, else .venv's."""
    given = os.environ.get('PYTHON')
    if given:
        return shutil.which(given) or given
    active = os.environ.get('VIRTUAL_ENV')
    if not active and os.environ.get('CONDA_DEFAULT_ENV') != 'base':  # base is conda's own
        active = os.environ.get('CONDA_PREFIX')
    return str(Path(active or VENV) / 'bin/python')


def make_venv() -> None:
    """Make .venv with the running Python, else one found on PATH, else one that uv fetches."""
    problems = []
    for name in [sys.executable, 'python3.12', 'python3.11', 'python3.13', 'python3.10']:
        try:
            probe(name)
        except Problem as problem:
            problems.append(problem)
        else:
            command = [name, '-m', 'venv', str(VENV)]
            break
    else:
        if not shutil.which('uv'):
            raise problems[0]
        command = ['uv', 'venv', '--python', '3.12', str(VENV)]
    print('Making .venv:', *command, flush=True)
    if subprocess.run(command).returncode:
        shutil.rmtree(str(VENV), ignore_errors=True)
        raise Problem('.venv was not made, see above (Debian, Ubuntu: apt install python3-venv)')


def check_compiler(include: str) -> None:
    """Make sure that a C++17 extension of Python can be compiled."""
    compiler = os.environ.get('CXX', 'c++').split()
    command = [*compiler, '-std=c++17', '-fsyntax-only', '-I', include, '-x', 'c++', '-']
    source = b'#include <vector>\n#include <Python.h>\n'
    try:
        result = subprocess.run(command, input=source, stderr=subprocess.PIPE)
        error = result.returncode and result.stderr.decode(errors='replace').splitlines()[0]
    except OSError as missing:
        error = missing
    if error:
        raise Problem(
            "mmcv's ops need a C++17 compiler and Python.h (Debian, Ubuntu: apt install g++ "
            f'python3-dev; another compiler: CXX=): {error}'
        )


def progress(output: str, seconds: float) -> str:
    """Where a running command is, read from its output."""
    clock = '%d:%02d' % divmod(int(seconds), 60)
    counts = re.findall(r'\[(\d+)/(\d+)\] ', output)
    if not counts:
        return f'{clock}  {last_line(output)[:65]}'
    done, total = map(int, counts[-1])
    left = ', about %d:%02d to go' % divmod(int(seconds / done * (total - done)), 60)
    return f'{clock}  compiled {done} of {total} files' + left * (done > 4)


class Install:
    """The steps, all for one Python and with one log."""

    def __init__(self, python: str) -> None:
        self.python, self.info = python, probe(python)
        self.cache = Path(CACHE).expanduser().absolute()
        self.log = Path(self.info['prefix'], 'mmpse-install.log')
        self.stamp = Path(self.info['prefix'], 'mmpse-install.json')
        self.pip = [python, '-m', 'pip', 'install', '--disable-pip-version-check']
        if shutil.which('uv'):
            self.pip = ['uv', 'pip', 'install', '--python', python]

    def state(self) -> str:
        """Differs when there may be something to do: pins, metadata, packages, checkout, nvcc."""
        files = [LOCK, MM, ROOT / 'setup.py']
        packages = Path(self.info['purelib']).glob('*.dist-info')
        parts = [path.read_text() for path in files] + sorted(path.name for path in packages)
        parts += [str(ROOT), str((ROOT / 'mmpse/.mim/tools').exists()), str(shutil.which('nvcc'))]
        return hashlib.sha256('\n'.join(parts).encode()).hexdigest()

    def finished(self) -> bool:
        """Whether an earlier install proved the stack and nothing has changed since."""
        try:
            stamp = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return False
        if stamp['state'] != self.state():
            return False
        print(f'The stack is in order in {self.info["prefix"]}: {stamp["stack"]}', flush=True)
        return True

    def run(self, doing: str, *command: str, **options: Any) -> None:
        """Run a command with its output in the log, and show that it is alive."""
        every, end = (1, '\r') if sys.stdout.isatty() else (30, '\n')
        begin = time.time()
        with self.log.open('a') as log:
            start = log.tell()
            # the child holds the lock too: if this process is killed, the next waits for the child
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock.fileno()],
                **options,
            )
        while process.returncode is None:
            try:
                process.wait(every)
            except subprocess.TimeoutExpired:
                line = '      ' + progress(self.output(start), time.time() - begin)
                print(line.ljust(79), end=end, flush=True)
        if process.returncode:
            output = self.output(start)
            advice = next(advice for pattern, advice in CAUSES if re.search(pattern, output))
            raise Problem(
                f'{doing} failed, {advice}; then `make install` continues. Its last line: '
                f'{last_line(output)[:200]} (the whole log: {self.log})'
            )

    def output(self, start: int) -> str:
        """The end of the log, nothing from before `start`."""
        with self.log.open('rb') as log:
            log.seek(max(start, self.log.stat().st_size - 20000))
            return log.read().decode(errors='replace')

    def packages(self) -> None:
        """Everything in the lock; first what builds some of it, since newer setuptools cannot."""
        if not any(self.cache.glob('*/*.whl')) and ask(self.python, 'import mmcv.ops').returncode:
            check_compiler(self.info['include'])  # said now, not after the download
        print('[1/4] torch, OpenMMLab, tools: 2 GB to download if they are not there', flush=True)
        self.run('installing pip', *self.pip, '-c', str(LOCK), 'pip', 'setuptools', 'wheel')
        options = ['--no-deps', '--no-build-isolation', '-r', str(LOCK)]
        self.run('installing packages', *self.pip, *options)

    def ops(self) -> None:
        """mmcv with its compiled ops: what is there, else a kept wheel, else a new one."""
        answer = ask(self.python, FITTING)
        if answer.returncode:
            raise Problem(f'torch was installed but does not work: {last_line(answer.stderr)}')
        fitting, note = answer.stdout.split('\n')[:2]
        version = re.search('onedl-mmcv==(.+)', (ROOT / 'requirements/mminstall.txt').read_text())[
            1
        ]
        folder = self.cache / f'mmcv{version}-{fitting}'
        print('[2/4] mmcv and its ops', f'({note})' * bool(note), flush=True)
        while ask(self.python, OPS, version, fitting).returncode:
            build = not any(folder.glob('*.whl'))
            if build:
                self.build(folder, f'onedl-mmcv=={version}', fitting)
            wheel = next(folder.glob('*.whl'))
            self.run('installing mmcv', *self.pip, '--no-deps', '--force-reinstall', str(wheel))
            answer = ask(self.python, OPS, version, fitting)
            if answer.returncode:  # a kept wheel may be of another machine
                wheel.unlink()
            if answer.returncode and build:
                raise Problem(f'the ops of mmcv do not work: {last_line(answer.stderr)}')

    def build(self, folder: Path, pin: str, fitting: str) -> None:
        """A wheel of mmcv in the folder, where an interrupted build continues."""
        check_compiler(self.info['include'])
        source, part, dist = folder / 'source', folder / 'part', folder / 'dist'
        if not source.exists():
            shutil.rmtree(str(part), ignore_errors=True)
            options = ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', '-d', str(part)]
            self.run('fetching mmcv', self.python, '-m', 'pip', 'download', *options, pin)
            shutil.unpack_archive(str(next(part.glob('*.tar.gz'))), str(part / 'unpacked'))
            next((part / 'unpacked').iterdir()).rename(source)
        memory_gb = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
        jobs = max(1, min(os.cpu_count() or 1, int(memory_gb / GB_PER_JOB)))
        env = dict({'MAX_JOBS': str(jobs)}, **os.environ)
        env.update(MMCV_WITH_OPS='1', PATH=f'{self.info["scripts"]}:{env.get("PATH", "")}')
        # without debug information, which Pythons often ask for, it takes half the time
        env['CPPFLAGS'] = env.get('CPPFLAGS', '') + ' -g0'
        if fitting.endswith('cpu'):
            env['CUDA_VISIBLE_DEVICES'] = ''
        print(f'      compiling for {fitting}, once, with {env["MAX_JOBS"]} jobs', flush=True)
        command = [self.python, 'setup.py', 'bdist_wheel', '--dist-dir', str(dist)]
        self.run('compiling mmcv', *command, cwd=str(source), env=env)
        wheel = next(dist.glob('*.whl'))
        wheel.rename(folder / wheel.name)
        for used in (source, part, dist):
            shutil.rmtree(str(used), ignore_errors=True)

    def all(self) -> None:
        if self.finished():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / 'lock').open('w') as self.lock:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print('Another install is running; waiting for it', flush=True)
                fcntl.flock(self.lock, fcntl.LOCK_EX)
            if self.finished():
                return
            print(f'Installing mmpse for {self.python}; the log: {self.log}', flush=True)
            self.packages()
            self.ops()
            print('[3/4] mmpse itself', flush=True)
            options = ['--no-deps', '--no-build-isolation', '-e', str(ROOT)]
            self.run('installing mmpse', *self.pip, *options)
            print('[4/4] proof: everything imports', flush=True)
            answer = ask(self.python, PROOF, *PROVED.split())
            if answer.returncode:
                raise Problem(f'the stack is installed, but {last_line(answer.stderr)}')
            stack = ', '.join(answer.stdout.strip().splitlines()[-len(PROVED.split()) :])
            self.stamp.write_text(json.dumps({'state': self.state(), 'stack': stack}))
            self.finished()


def main() -> int:
    python = target_python()
    if sys.argv[1:] == ['--print-python']:
        print(python)
        return 0
    try:
        if python == str(VENV / 'bin/python') and not Path(python).exists():
            make_venv()
        Install(python).all()
    except (Problem, OSError) as problem:
        print(f'install: {problem}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninstall: interrupted; `make install` continues', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
