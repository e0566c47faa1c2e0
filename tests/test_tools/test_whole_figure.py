"""The figure of the README."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / 'tools/evidence/whole_figure.py'


def draw(folder: Path) -> subprocess.CompletedProcess:
    words = ['net', '--title', 'a net', '--metric', 'box mAP']
    return subprocess.run(
        [sys.executable, TOOL, *words], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / 'docs/results/whole'
    (folder / 'subnets').mkdir(parents=True)
    rows = [('100%', 'full', 0, 1.0, 0.5)]
    for seed in (0, 1):
        rows += [('50%', 'uniform', seed, 0.48, 0.45), ('10%', 'uniform', seed, 0.09, 0.3)]
    rows.append(('10%', 'sensitivity', 0, 0.1, 0.4))
    units = {'backbone.conv1': 32, 'neck.conv': 64}
    for budget, how, seed, flops, test in rows:
        name = f'net_{budget.rstrip("%")}_{how}_{seed}.json'
        record = dict(budget=budget, how=how, seed=seed, flops=flops, test=test)
        (folder / name).write_text(json.dumps(record))
        if how != 'full':
            subnet = dict(backbone=dict(units=units), widths={unit: 8 for unit in units})
            (folder / 'subnets' / name).write_text(json.dumps(subnet))
    return tmp_path


def test_records_become_a_figure(records):
    run = draw(records)
    assert run.returncode == 0, run.stderr
    width, height = Image.open(records / 'docs/images/net.png').size
    assert width > height > 300


def test_without_records_it_says_who_writes_them(tmp_path):
    run = draw(tmp_path)
    assert run.returncode and 'whole.py writes them' in run.stderr
