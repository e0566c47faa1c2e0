"""Packaging: `pip install .`, `pip install -e .` and `mim install mmpse`."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def version() -> str:
    """The version, read without importing mmpse and so torch."""
    scope = {}
    exec((ROOT / 'mmpse/version.py').read_text(), scope)
    return scope['__version__']


def requirements(name: str) -> list[str]:
    """The lines of requirements/{name}.txt, without comments."""
    lines = (ROOT / f'requirements/{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


class BuildPy(build_py):
    """Add mmpse/.mim, where MIM and `_base_ = 'mmpse::...'` look for configs and tools.

    An editable install links to the originals in the checkout, a wheel gets copies.
    """

    def run(self) -> None:
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmpse/.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM_FILES:
            if self.editable_mode:
                (mim / name).symlink_to(Path('../..', name))
            elif (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, mim / name, ignore=shutil.ignore_patterns('__pycache__')
                )
            else:
                shutil.copy(ROOT / name, mim / name)


setup(
    name='mmpse',
    version=version(),
    description='PSE-Net and stage-wise channel pruning for OpenMMLab backbones',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmpse', 'mmpse.*']),
    # no mm packages and no torch: users may have them under their older distribution names
    install_requires=requirements('runtime'),
    extras_require={
        'all': requirements('optional') + requirements('evidence') + requirements('tests'),
        'evidence': requirements('evidence'),
        'optional': requirements('optional'),
        'tests': requirements('tests'),
        'mim': requirements('mminstall'),
    },
    cmdclass={'build_py': BuildPy},
    zip_safe=False,
)
