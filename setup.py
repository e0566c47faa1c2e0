"""Packaging: `pip install .`, `pip install -e .` and `mim install mmpse`."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')
NOT_PACKED = ('__pycache__', 'evidence', 'install.py')  # what only the checkout has a use for


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

    An editable install links to the originals in the checkout, a wheel gets copies of what is
    of use without the checkout.
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
                ignore = shutil.ignore_patterns(*NOT_PACKED)
                shutil.copytree(ROOT / name, mim / name, ignore=ignore)
            else:
                shutil.copy(ROOT / name, mim / name)


setup(
    name='mmpse',
    version=version(),
    description='Channel pruning of backbones, detectors and segmentors for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    author='mmpse contributors',
    license='Apache-2.0',
    keywords='OpenMMLab, pruning, supernet, detection, segmentation, computer vision',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['mmpse', 'mmpse.*']),
    entry_points={'console_scripts': ['mmpse = mmpse.cli:main']},
    # no mm packages and no torch: users may have them under their older distribution names
    install_requires=requirements('runtime'),
    extras_require={
        'all': requirements('optional') + requirements('tests'),
        'optional': requirements('optional'),
        'tests': requirements('tests'),
        'mim': requirements('mminstall'),
    },
    cmdclass={'build_py': BuildPy},
    zip_safe=False,
)
