"""Tools as a user starts them."""

import subprocess
import sys

from conftest import ROOT

QUICK = ROOT / 'configs/quickstart'


def run(*command, expect=0, **kwargs):
    result = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, **kwargs
    )
    assert result.returncode == expect, result.stdout[-2000:] + result.stderr[-4000:]
    return result
