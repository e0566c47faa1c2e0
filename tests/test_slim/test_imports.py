"""The room stands alone."""

import subprocess
import sys

ROOTS = """
import sys
sys.modules['mmengine'] = None  # where it is installed, mmpse makes itself known to it
{}
roots = {{name.partition('.')[0] for name, module in sys.modules.items() if module is not None}}
print(*sorted(roots - sys.stdlib_module_names - {{'mmpse'}}))
"""


def imported_by(statement):
    """Packages outside of the standard library."""
    code = ROOTS.format(statement)
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    return set(ended.stdout.split())


def test_slim_needs_nothing_but_torch():
    assert imported_by('import mmpse.slim') <= imported_by('import numpy.random, torch')
