"""What `pip install` brings: the wheel and the editable install."""

import configparser
import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
PACKED = (
    *('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'model-index.yml'),
    *('requirements', 'mmpse', 'configs', 'tools'),
)


def build(kind: str, source: Path) -> zipfile.ZipFile:
    code = f'from setuptools import build_meta; build_meta.build_{kind}(".")'
    subprocess.run([sys.executable, '-c', code], cwd=source, check=True, stdout=subprocess.PIPE)
    (wheel,) = source.glob('mmpse-*.whl')
    return zipfile.ZipFile(wheel)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy without what an editable install leaves in it."""
    for name in PACKED:
        if (REPO / name).is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(REPO / name, tmp_path / name, ignore=ignore)
        else:
            shutil.copy(REPO / name, tmp_path / name)
    return tmp_path


def files(folder: Path, pattern: str = '*') -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob(pattern) if p.is_file()}


def test_wheel_has_the_package_and_what_mim_looks_for(checkout):
    package = {f'mmpse/{name}' for name in files(checkout / 'mmpse', '*.py')}
    configs = {f'mmpse/.mim/configs/{name}' for name in files(checkout / 'configs')}
    tools = {
        f'mmpse/.mim/tools/{name}'
        for name in files(checkout / 'tools')
        if not name.startswith('evidence/') and name != 'install.py'
    }
    stale = checkout / 'mmpse/.mim/configs/stale.py'  # of an earlier build
    stale.parent.mkdir(parents=True)
    stale.touch()
    packed = {name for name in build('wheel', checkout).namelist() if '.dist-info/' not in name}
    assert {'mmpse/.mim/tools/train.py', 'mmpse/.mim/tools/dist_train.sh'} <= tools
    assert packed == package | configs | tools | {'mmpse/.mim/model-index.yml'}


def test_wheel_says_what_it_is_and_needs_no_particular_torch_or_mm_package(checkout):
    wheel = build('wheel', checkout)
    texts = {Path(n).name: wheel.read(n).decode() for n in wheel.namelist() if '.dist-info/' in n}
    metadata = email.message_from_string(texts['METADATA'])
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata['Description-Content-Type'] == 'text/markdown'
    assert metadata.get_payload().strip() == (REPO / 'README.md').read_text().strip()
    always = [need for need in metadata.get_all('Requires-Dist') if 'extra ==' not in need]
    assert 'numpy' in always
    assert not [need for need in always if need.startswith(('torch', 'mm', 'onedl'))]
    scripts = configparser.ConfigParser()
    scripts.read_string(texts['entry_points.txt'])
    assert dict(scripts['console_scripts']) == {'mmpse': 'mmpse.cli:main'}


def test_editable_install_follows_the_checkout(checkout):
    build('editable', checkout)
    (checkout / 'configs/new.py').write_text('2')
    assert (checkout / 'mmpse/.mim/configs/new.py').read_text() == '2'
    assert (checkout / 'mmpse/.mim/tools/train.py').exists()


def test_the_version_is_the_same_everywhere():
    version = re.search("'(.+)'", (REPO / 'mmpse/version.py').read_text())[1]
    assert f'\nversion: {version}\n' in (REPO / 'CITATION.cff').read_text()
    assert f'\n## {version}' in (REPO / 'CHANGELOG.md').read_text()


def test_lock_fits_the_requirements():
    """Otherwise `make lock` was forgotten."""
    lines = {
        path.stem: [line for line in path.read_text().splitlines() if line and line[0] != '#']
        for path in (REPO / 'requirements').glob('*.txt')
    }
    locked = [Requirement(line) for line in lines.pop('lock')]
    locked = {canonicalize_name(r.name): str(r.specifier).removeprefix('==') for r in locked}
    assert 'onedl-mmcv' not in locked  # built by tools/install.py
    for need in map(Requirement, sum(lines.values(), [])):
        if need.name != 'onedl-mmcv':
            assert locked[canonicalize_name(need.name)] in need.specifier
