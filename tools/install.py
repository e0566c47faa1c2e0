"""Install mmpse and the OpenMMLab stack it runs on for the Python that runs this: `make install`.

What is done is not done again: an interrupted install continues, a finished one says so at once.
The built wheel of mmcv is kept for the next environment, in MMPSE_CACHE (default ~/.cache/mmpse).
Standard library only, and no syntax that an old Python cannot read, so that it gets an answer.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = Path(sys.prefix)
LOG, STAMP = PREFIX / 'mmpse-install.log', PREFIX / 'mmpse-install.json'
CACHE = os.environ.get('MMPSE_CACHE') or os.environ.get('XDG_CACHE_HOME', '~/.cache') + '/mmpse'
CACHE = Path(CACHE).expanduser().absolute()
REQUIREMENTS, LOCK = ROOT / 'requirements', ROOT / 'requirements/lock.txt'  # all but mmcv
PIP = [sys.executable, '-m', 'pip', 'install']
if shutil.which('uv'):
    PIP = ['uv', 'pip', 'install', '--python', sys.executable]

OFFLINE = (
    'NewConnectionError|NameResolutionError|Connect(ion|Timeout)Error|Max retries|ProxyError'
    '|SSLError|Connection (refused|reset)|Network is unreachable|[Tt]imed out|dns error'
)

# What mmcv's ops depend on, and a note. mmcv compiles for CUDA if torch sees a GPU, and fails
# without the compiler of torch's CUDA release.
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
        note = ': there is a GPU, but no nvcc of CUDA %s on PATH, so NMS will use the CPU' % cuda
print('torch%s-cp%d%d-%s' % (torch.__version__, *sys.version_info[:2], device), note, sep='\\n')
"""
OPS = """
import importlib.metadata, sys
from mmcv.ops import get_compiling_cuda_version as cuda
if importlib.metadata.version('onedl-mmcv') != sys.argv[1]:
    sys.exit('mmcv is of another version')
if not sys.argv[2].endswith('cpu') and cuda() == 'not available':
    sys.exit('mmcv has no ops for CUDA')
"""
PROOF = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print('>', name, sys.modules[name.split('.')[0]].__version__)
"""
PROVED = 'torch cv2 timm mmengine mmcv.ops mmpretrain.models mmdet.models mmseg.models mmpse'


class Problem(Exception):
    """What stops the install: what was found, what is needed, what to do."""


def ask(code: str, *args: str) -> 'subprocess.CompletedProcess[str]':
    """Run a piece of code that sees installed packages only: not this folder, not PYTHONPATH."""
    command = [sys.executable, '-I', '-c', code, *args]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ['it said nothing'])[-1].strip()


def state() -> str:
    """Differs when there may be something to do: pins, metadata, packages, checkout, nvcc."""
    files = [*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'setup.py']
    packages = sorted(path.name for path in Path(sysconfig.get_path('purelib')).glob('*.dist-info'))
    parts = [str(ROOT), str((ROOT / 'mmpse/.mim/tools').exists()), str(shutil.which('nvcc'))]
    parts += packages + [path.read_text() for path in files]
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def finished() -> bool:
    """Whether an earlier install proved the stack and nothing has changed since."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return False
    if stamp['state'] == state():
        print(f'The stack is in order in {PREFIX}: {stamp["stack"]}', flush=True)
    return stamp['state'] == state()


def check_compiler() -> None:
    """Make sure that a C++17 extension of Python can be compiled."""
    include = ['-I', sysconfig.get_path('include')]
    command = [*os.environ.get('CXX', 'c++').split(), '-std=c++17', '-fsyntax-only', *include]
    source = '#include <vector>\n#include <Python.h>\n'
    try:
        pipes = dict(stderr=subprocess.PIPE, text=True)
        result = subprocess.run([*command, '-x', 'c++', '-'], input=source, **pipes)
        error = result.returncode and result.stderr.strip().splitlines()[0]
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


def run(doing: str, *command: str, **options) -> None:
    """Run a command with its output in the log, and show that it is alive."""
    every, end = (1, '\r') if sys.stdout.isatty() else (30, '\n')
    begin, start = time.time(), LOG.stat().st_size if LOG.exists() else 0
    output = lambda: LOG.read_bytes()[start:].decode(errors='replace')  # noqa: E731
    with LOG.open('a') as log:
        options.update(stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        # the child inherits the lock: if this process is killed, the next one waits for the child
        process = subprocess.Popen(command, close_fds=False, **options)
    while process.returncode is None:
        try:
            process.wait(every)
        except subprocess.TimeoutExpired:
            line = '      ' + progress(output(), time.time() - begin)
            print(line.ljust(79), end=end, flush=True)
    if process.returncode:
        error = re.search(r'^.*\b(ERROR|[Ee]rror): .*$', output(), re.M)
        error = error.group().strip() if error else last_line(output())
        if re.search(OFFLINE, output()):
            error = 'no way to the package registry: see the network, HTTPS_PROXY, `pip config`'
        raise Problem(f'{doing} failed: {error[:300]}; then `make install` continues; log: {LOG}')


def install_ops() -> None:
    """mmcv with its compiled ops: what is there, else a kept wheel, else a new one."""
    answer = ask(FITTING)
    if answer.returncode:
        raise Problem(f'torch was installed but does not work: {last_line(answer.stderr)}')
    fitting, note = answer.stdout.split('\n')[:2]
    version = re.search('onedl-mmcv==(.+)', (REQUIREMENTS / 'mminstall.txt').read_text())[1]
    folder = CACHE / f'mmcv{version}-{fitting}'
    print(f'[2/4] mmcv and its ops{note}', flush=True)
    while ask(OPS, version, fitting).returncode:
        build = not any(folder.glob('*.whl'))
        if build:
            build_wheel(folder, f'onedl-mmcv=={version}', fitting)
        wheel = next(folder.glob('*.whl'))
        run('installing mmcv', *PIP, '--no-deps', '--force-reinstall', str(wheel))
        answer = ask(OPS, version, fitting)
        if answer.returncode:  # a kept wheel may be of another machine
            wheel.unlink()
        if answer.returncode and build:
            raise Problem(f'the ops of mmcv do not work: {last_line(answer.stderr)}')


def build_wheel(folder: Path, pin: str, fitting: str) -> None:
    """A wheel of mmcv in the folder, where an interrupted build continues."""
    check_compiler()
    source, part, dist = folder / 'source', folder / 'part', folder / 'dist'
    if not source.exists():
        shutil.rmtree(str(part), ignore_errors=True)
        options = ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', '-d', str(part)]
        run('fetching mmcv', sys.executable, '-m', 'pip', 'download', *options, pin)
        shutil.unpack_archive(str(next(part.glob('*.tar.gz'))), str(part / 'unpacked'))
        next((part / 'unpacked').iterdir()).rename(source)
    memory_gb = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    jobs = max(1, min(os.cpu_count() or 1, int(memory_gb / 2)))  # one compiler takes up to 1.5 GB
    env = {'MAX_JOBS': str(jobs), 'PATH': '', 'CPPFLAGS': '', **os.environ, 'MMCV_WITH_OPS': '1'}
    env['PATH'] = sysconfig.get_path('scripts') + ':' + env['PATH']  # ninja
    env['CPPFLAGS'] += ' -g0'  # without debug information it takes half the time
    if fitting.endswith('cpu'):
        env['CUDA_VISIBLE_DEVICES'] = ''
    print(f'      compiling for {fitting}, once, with {env["MAX_JOBS"]} jobs', flush=True)
    command = [sys.executable, 'setup.py', 'bdist_wheel', '--dist-dir', str(dist)]
    run('compiling mmcv', *command, cwd=str(source), env=env)
    wheel = next(dist.glob('*.whl'))
    wheel.rename(folder / wheel.name)
    for used in (source, part, dist):
        shutil.rmtree(str(used), ignore_errors=True)


def install() -> None:
    print(f'Installing mmpse for {sys.executable}; the log: {LOG}', flush=True)
    if not any(CACHE.glob('*/*.whl')) and ask('import mmcv.ops').returncode:
        check_compiler()  # said now, not after the download
    print('[1/4] torch, OpenMMLab, tools: 2 GB to download if they are not there', flush=True)
    # first what builds some of the others: newer setuptools cannot
    run('installing pip', *PIP, '-c', str(LOCK), 'pip', 'setuptools', 'wheel')
    options = ['--no-deps', '--no-build-isolation']
    run('installing packages', *PIP, *options, '-r', str(LOCK))
    install_ops()
    print('[3/4] mmpse itself', flush=True)
    # by its path: otherwise a folder of that name, as one's clone, takes the place of the package
    path = ['--config-settings', 'editable_mode=compat']
    run('installing mmpse', *PIP, *options, *path, '-e', str(ROOT))
    print('[4/4] proof: everything imports', flush=True)
    answer = ask(PROOF, *PROVED.split())
    if answer.returncode:
        raise Problem(f'the stack is installed, but {last_line(answer.stderr)}')
    stack = ', '.join(re.findall('^> (.+)', answer.stdout, re.M))
    STAMP.write_text(json.dumps({'state': state(), 'stack': stack}))
    finished()


def main() -> int:
    version = '%d.%d' % sys.version_info[:2]
    try:
        if not (3, 10) <= sys.version_info[:2] <= (3, 13):
            raise Problem(
                f'{sys.executable} is Python {version}, and mmpse needs 3.10 to 3.13: activate '
                'another environment, or none and leave out PYTHON=, so that .venv is made'
            )
        if finished():
            return 0
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / 'lock').open('w') as lock:
            os.set_inheritable(lock.fileno(), True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print('Another install is running; waiting for it', flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished():
                install()
    except (Problem, OSError) as problem:
        print(f'install: {problem}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninstall: interrupted; `make install` continues', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
