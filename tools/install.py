#!/usr/bin/env python3
"""Install mmpse and the OpenMMLab stack it runs on: what `make install` runs.

The environment is the one `PYTHON=` names, else the active one, else `.venv`, made if missing.
Nothing is done twice: an interrupted install continues, a finished one says so at once.
Standard library only and readable by Python 3.6, so that an old Python gets a useful answer.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parent.parent
VENV_PYTHON = ROOT / '.venv/bin/python'
OLDEST, NEWEST = (3, 10), (3, 13)
NEEDED = 'mmpse needs Python 3.10 to 3.13, for which its pinned packages are published'
PACKAGES_GB, TEMPORARY_GB = 9, 3  # measured: 6 stay and 2 are needed beside them for the downloads
OPS_GB = 1
GB_PER_JOB = 2  # memory: one compiler takes up to 1.5
CORE_MINUTES = 14  # measured, to compile the 78 files of mmcv
PROVED = (
    *('torch', 'torchvision', 'timm', 'cv2', 'mmengine', 'mmcv.ops'),
    *('mmpretrain.models', 'mmdet.models', 'mmseg.models', 'mmpse'),
)

# what the output of a failed command means, and what to do about it
CAUSES = (
    ('No space left on device', 'The disk is full: free some space there, or set TMPDIR'),
    (
        'NewConnectionError|NameResolutionError|Connect(ion|Timeout)Error|Max retries|ProxyError'
        '|SSLError|Connection (refused|reset)|Network is unreachable|[Tt]imed out',
        'pip cannot reach the package registry: mend the network, HTTPS_PROXY or `pip config`',
    ),
    ('No matching distribution found', 'The package registry of `pip config list` lacks a package'),
    ('externally-managed', "This is the system's own Python: leave out PYTHON=, and .venv is made"),
    ('Killed|[Oo]ut of memory', 'The memory did not suffice: set MAX_JOBS=1'),
)

# run by the target's Python
PROBE = """
import json, sys, sysconfig
try:
    import ensurepip, venv
except ImportError:
    venv = None
print(json.dumps(dict(version=sys.version_info[:2], prefix=sys.prefix, venv=bool(venv),
                      include=sysconfig.get_path('include'))))
"""
VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name).split('+')[0]
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
# mmcv compiles for CUDA if torch sees a GPU, and fails without the compiler of torch's CUDA release
GPU = """
import os, subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME
nvcc = os.path.join(CUDA_HOME or '', 'bin', 'nvcc')
known = subprocess.check_output([nvcc, '--version'], text=True) if os.path.exists(nvcc) else ''
cuda = torch.version.cuda or 'none'
print('no GPU' if not torch.cuda.is_available() else
      'nvcc' if 'release %s.' % cuda.split('.')[0] in known else cuda)
"""
OPS = """
import sys
from mmcv.ops import get_compiling_cuda_version
sys.exit(sys.argv[1] == 'CUDA' and get_compiling_cuda_version() == 'not available')
"""
PROOF = """
import importlib, json, sys
stack = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit('%s does not import: %s: %s' % (name, type(error).__name__, error))
    stack.append(name + ' ' + sys.modules[name.split('.')[0]].__version__)
print(json.dumps(stack))
"""


class Problem(Exception):
    """What stops the install: what was found, what is needed, what to do."""


def ask(python: str, code: str, *args: str) -> 'subprocess.CompletedProcess[str]':
    """Run a piece of code away from this checkout, so that it sees installed packages only."""
    pipe, command = subprocess.PIPE, [python, '-c', code, *args]
    with tempfile.TemporaryDirectory() as away:
        return subprocess.run(command, stdout=pipe, stderr=pipe, universal_newlines=True, cwd=away)


def probe(python: str) -> Optional[Dict[str, Any]]:
    """Version, prefix and equipment of a Python; None if it does not run."""
    try:
        return json.loads(ask(python, PROBE).stdout)
    except (OSError, ValueError):
        return None


def supported(info: Dict[str, Any]) -> bool:
    return OLDEST <= tuple(info['version']) <= NEWEST


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ['it said nothing'])[-1]


def target_python() -> str:
    """The Python to install for: PYTHON=, else that of the active environment, else .venv's."""
    given = os.environ.get('PYTHON')
    if given:
        return shutil.which(given) or given
    active = os.environ.get('VIRTUAL_ENV')
    if not active and os.environ.get('CONDA_DEFAULT_ENV') != 'base':  # base is conda's own
        active = os.environ.get('CONDA_PREFIX')
    return str(Path(active) / 'bin/python') if active else str(VENV_PYTHON)


def make_venv() -> None:
    """Make .venv with a supported Python: the running one, else one found on PATH."""
    names = [sys.executable] + ['python3.%d' % minor for minor in (12, 11, 13, 10)]
    known = {python: probe(python) for python in filter(None, map(shutil.which, names))}
    good = {python: info for python, info in known.items() if info and supported(info)}
    if not good:
        found = [
            '%d.%d (%s)' % (*info['version'], python) for python, info in known.items() if info
        ]
        raise Problem(
            f'Found Python {" and ".join(found)}; {NEEDED}: install one of them (Debian, Ubuntu: '
            'apt install python3.12-venv), or activate an environment that has one'
        )
    python, info = next(iter(good.items()))
    if not info['venv']:
        raise Problem(
            f'{python} cannot make .venv, it has no venv module: install it (Debian, Ubuntu: '
            'apt install python3.%d-venv), or activate an environment' % info['version'][1]
        )
    print(f'Making .venv with {python}', flush=True)
    if subprocess.run([python, '-m', 'venv', str(ROOT / '.venv')]).returncode:
        raise Problem('.venv could not be made, for the reason above')


def inspect(python: str) -> Dict[str, Any]:
    """Probe the target; raise if mmpse cannot be installed for it."""
    info = probe(python)
    if info is None:
        raise Problem(f'{python} does not run: remove that environment, or name another: PYTHON=')
    if not supported(info):
        found = '%d.%d' % tuple(info['version'])
        raise Problem(
            f'{python} is Python {found}; {NEEDED}: activate an environment of such a Python, or '
            'none, and leave out PYTHON=, so that .venv is made'
        )
    if not os.access(info['prefix'], os.W_OK):
        raise Problem(f'{info["prefix"]} is write-protected: leave out PYTHON=, and .venv is made')
    return info


def check_disk(folder: Path, needed_gb: int) -> None:
    free_gb = shutil.disk_usage(str(folder)).free / 1e9
    if free_gb < needed_gb:
        raise Problem(
            f'{folder} has {free_gb:.1f} GB free, and this step needs {needed_gb} GB: free some '
            'space, or activate an environment (TMPDIR for temporary files) on another disk'
        )


def check_compiler(include: str) -> None:
    """Make sure that a C++17 extension module can be compiled."""
    compiler = os.environ.get('CXX', 'c++')
    if not shutil.which(compiler.split()[0]):
        raise Problem(
            f'No C++ compiler found ({compiler}), and mmcv needs one for its ops: install one '
            '(Debian, Ubuntu: apt install g++) or name it: CXX=/path/to/g++'
        )
    command = [*compiler.split(), '-std=c++17', '-fsyntax-only', '-I', include, '-x', 'c++', '-']
    source = b'#include <vector>\n#include <Python.h>\n'
    result = subprocess.run(command, input=source, stderr=subprocess.PIPE)
    errors = result.stderr.decode(errors='replace').strip()
    if result.returncode and 'Python.h' in errors:
        raise Problem(
            f'No Python.h in {include}, and mmcv needs it for its ops: install the headers of '
            'Python (Debian, Ubuntu: apt install python3-dev)'
        )
    if result.returncode:
        raise Problem(f'The C++ compiler ({compiler}) cannot compile C++17: {errors}')


def requirements() -> List[str]:
    return [path.read_text() for path in sorted((ROOT / 'requirements').glob('*.txt'))]


def pins() -> Dict[str, str]:
    """name -> version of everything that requirements/ fixes."""
    return dict(re.findall(r'^([\w-]+)==(\S+)', '\n'.join(requirements()), re.M))


def fingerprint() -> str:
    """Changes when another install would give another result."""
    machine = [str(ROOT), str(shutil.which('nvidia-smi')), str(shutil.which('nvcc'))]
    parts = requirements() + machine + [(ROOT / 'setup.py').read_text()]
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def progress(output: str, seconds: float) -> str:
    """Where a running command is, read from its output."""
    clock = '%d:%02d' % divmod(int(seconds), 60)
    counts = re.findall(r'\[(\d+)/(\d+)\] ', output)
    if not counts:
        return f'{clock}  {last_line(output).strip()[:65]}'
    done, total = map(int, counts[-1])
    left = ', about %d:%02d to go' % divmod(int(seconds / done * (total - done)), 60)
    return f'{clock}  compiled {done} of {total} files' + left * (done > 4)


class Install:
    """The steps, all for one Python and with one log."""

    def __init__(self, python: str, lock: int) -> None:
        info = inspect(python)
        self.python, self.lock, self.include = python, lock, info['include']
        self.prefix = Path(info['prefix'])
        self.log = self.prefix / 'mmpse-install.log'
        self.stamp = self.prefix / 'mmpse-install.json'

    def output(self, start: int) -> str:
        """The end of the log, nothing from before `start`."""
        with self.log.open('rb') as log:
            log.seek(max(start, self.log.stat().st_size - 20000))
            return log.read().decode(errors='replace')

    def run(self, doing: str, *command: str, **env: str) -> None:
        """Run the target's Python with its output in the log, and show that it is alive."""
        every, end = (1, '\r') if sys.stdout.isatty() else (30, '\n')
        begin = time.time()
        with self.log.open('a') as log:
            start = log.tell()
            # the child holds the lock too: if this process is killed, the next one waits for it
            process = subprocess.Popen(
                [self.python, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, **env),
                pass_fds=[self.lock],
            )
        while process.returncode is None:
            try:
                process.wait(every)
            except subprocess.TimeoutExpired:
                line = '      ' + progress(self.output(start), time.time() - begin)
                print(line.ljust(79), end=end, flush=True)
        if process.returncode:
            output = self.output(start)
            advice = [advice for pattern, advice in CAUSES if re.search(pattern, output)]
            advice.append('The last lines say what to mend')
            tail = '\n    '.join(line[:150] for line in output.splitlines()[-8:])
            raise Problem(
                f'{advice[0]}; then `make install` continues. It stopped {doing}, with these last '
                f'lines:\n    {tail}\nThe whole log: {self.log}'
            )

    def pip(self, doing: str, *args: str, **env: str) -> None:
        self.run(doing, '-m', 'pip', '--disable-pip-version-check', *args, **env)

    def versions(self, *names: str) -> Dict[str, str]:
        return json.loads(ask(self.python, VERSIONS, *names).stdout)

    def finished(self) -> bool:
        """Whether an earlier install proved the stack and nothing changed since."""
        try:
            stamp = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return False
        if stamp['fingerprint'] != fingerprint() or self.versions(*pins()) != pins():
            return False
        if not (ROOT / 'mmpse/.mim/tools').exists():
            return False
        print(f'The stack is in order in {self.prefix}: {", ".join(stamp["stack"])}', flush=True)
        return True

    def step(self, number: int, text: str) -> None:
        print(f'[{number}/4] {text}', flush=True)

    def packages(self) -> None:
        """Everything but mmcv and mmpse."""
        there = self.versions('torch', 'onedl-mmcv')
        download = '' if 'torch' in there else ': 2 GB to download, 2 minutes or more'
        self.step(1, 'torch, OpenMMLab, tools' + download)
        if download:
            check_disk(self.prefix, PACKAGES_GB)
            check_disk(Path(tempfile.gettempdir()), TEMPORARY_GB)
        if 'onedl-mmcv' not in there:  # said now, not after the download
            check_compiler(self.include)
        if ask(self.python, 'import pip').returncode:
            self.run('making pip', '-m', 'ensurepip')
        args = ['%s==%s' % pin for pin in pins().items() if pin[0] != 'onedl-mmcv']
        for name in ('build', 'runtime', 'optional'):
            args += ['-r', str(ROOT / f'requirements/{name}.txt')]
        self.pip('installing packages', 'install', *args)
        if 'cannot open shared object' in ask(self.python, 'import cv2').stderr:
            # opencv-python, which mmcv asks for, wants libGL, which servers lack
            version = self.versions('opencv-python')['opencv-python']
            headless = 'opencv-python-headless==' + version
            self.pip('mending opencv', 'install', '--no-deps', '--force-reinstall', headless)

    def ops(self) -> None:
        """mmcv with its compiled ops, built in a folder where an interrupted build continues."""
        answer = ask(self.python, GPU)
        if answer.returncode:
            raise Problem(f'torch was installed but does not work: {last_line(answer.stderr)}')
        gpu = answer.stdout.strip()
        device = 'CUDA' if gpu == 'nvcc' else 'CPU'
        if ask(self.python, OPS, device).returncode == 0:
            return self.step(2, 'mmcv and its ops are there')
        check_disk(self.prefix, OPS_GB)
        check_compiler(self.include)
        memory_gb = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
        jobs = max(1, min(os.cpu_count() or 1, int(memory_gb / GB_PER_JOB)))
        jobs = int(os.environ.get('MAX_JOBS', jobs))
        minutes = f'{CORE_MINUTES / jobs:.0f} minutes' + ', with CUDA more' * (device == 'CUDA')
        self.step(2, f'mmcv: compiling its ops for {device}, once; about {minutes} ({jobs} jobs)')
        if gpu not in ('nvcc', 'no GPU'):
            print(
                f'      There is a GPU but no nvcc of CUDA {gpu}: ops of mmcv, such as NMS, will '
                'need the CPU. To change that, put nvcc on PATH and run `make install`.'
            )
        build = self.prefix / 'mmpse-build'
        pin = 'onedl-mmcv==' + pins()['onedl-mmcv']
        source = build / f'{pin}-{device}'
        if not source.exists():
            self.fetch(pin, source)
        # without debug information, which Pythons often ask for, it takes half the time
        flags = os.environ.get('CPPFLAGS', '') + ' -g0'
        env = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(jobs), 'CPPFLAGS': flags}
        if device == 'CPU':
            env['CUDA_VISIBLE_DEVICES'] = ''
        options = ['-v', '--no-deps', '--no-build-isolation', '-w', str(build / 'wheel')]
        self.pip('compiling mmcv', 'wheel', *options, str(source), **env)
        wheel = next((build / 'wheel').glob('*.whl'))
        self.pip('installing mmcv', 'install', '--no-deps', '--force-reinstall', str(wheel))
        shutil.rmtree(str(build))
        answer = ask(self.python, OPS, device)
        if answer.returncode:
            raise Problem(
                f'mmcv was compiled, but its ops do not work: {last_line(answer.stderr)}; '
                f'`make install` compiles it anew. The log: {self.log}'
            )

    def fetch(self, pin: str, source: Path) -> None:
        """Unpack the sources of a package; `source` appears when it is complete."""
        part = source.with_name('part')
        shutil.rmtree(str(part), ignore_errors=True)
        options = ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', '-d', str(part)]
        self.pip(f'fetching {pin}', 'download', *options, pin)
        shutil.unpack_archive(str(next(part.glob('*.tar.gz'))), str(part / 'unpacked'))
        next((part / 'unpacked').iterdir()).rename(source)

    def all(self) -> None:
        if self.finished():
            return
        print(f'Installing mmpse for {self.python}; the log: {self.log}')
        self.packages()
        self.ops()
        self.step(3, 'mmpse itself')
        mminstall = str(ROOT / 'requirements/mminstall.txt')
        options = ['--no-build-isolation', '-r', mminstall, '-e', str(ROOT)]
        self.pip('installing mmpse', 'install', *options)
        self.step(4, 'proof: everything imports')
        answer = ask(self.python, PROOF, *PROVED)
        if answer.returncode:
            raise Problem(f'The stack is installed, but {last_line(answer.stderr)}')
        stack = json.loads(last_line(answer.stdout))
        print('\n'.join('      ' + package for package in stack))
        self.stamp.write_text(json.dumps({'fingerprint': fingerprint(), 'stack': stack}))
        print(f'The stack is in order in {self.prefix}', flush=True)


def main(args: List[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--print-python', action='store_true', help='say what to install for')
    python = target_python()
    if parser.parse_args(args).print_python:
        print(python)
        return 0
    try:
        with open(__file__, 'r+') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print('Another install is running here; waiting for it', flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if python == str(VENV_PYTHON) and not VENV_PYTHON.exists():
                make_venv()
            Install(python, lock.fileno()).all()
    except (Problem, OSError) as problem:
        print(f'install: {problem}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninstall: interrupted; `make install` continues', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
