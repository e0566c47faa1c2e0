"""The Python door: light, and of use with PyTorch alone."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from mmengine.analysis import get_model_complexity_info

import mmpse
import mmpse.functions

# as in docs/prune.md
TEN_LINES = """
import torch
import torchvision

import mmpse

model = torchvision.models.resnet50().eval()
images = torch.zeros(1, 3, 64, 64)
layout = mmpse.units(model, images)
mmpse.slim.sort_(model, layout)
half = {name: unit.width // 2 for name, unit in layout.units.items()}
mmpse.slim.cut_(model, layout, half)
print(tuple(model(images).shape), sum(p.numel() for p in model.parameters()))
"""
BLOCKED = """
import sys
from pathlib import Path

for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'):
    sys.modules[name] = None  # an import of it fails now
"""


def run(code: str) -> str:
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    return ended.stdout


def test_a_torchvision_model_is_cut_by_half_without_openmmlab():
    assert len(TEN_LINES.replace('\n\n', '\n').strip().splitlines()) == 10
    shape, parameters = run(BLOCKED + TEN_LINES).rsplit(' ', 1)
    assert shape == '(1, 1000)'
    # convolutions have a quarter of their weights, and the classifier half
    full = torchvision.models.resnet50()
    classifier = full.fc.weight.numel()
    expected = (sum(p.numel() for p in full.parameters()) - classifier) / 4 + classifier / 2
    assert int(parameters) == pytest.approx(expected, rel=0.01)


def test_import_is_light():
    code = 'import sys, mmpse; print([n for n in ("torch", "mmdet", "mmcv") if n in sys.modules])'
    assert run(code).strip() == '[]'


def test_all_names_are_there():
    for name in mmpse.__all__:
        assert getattr(mmpse, name) is not None
        assert name in dir(mmpse)
    assert mmpse.slim.find_units and mmpse.api.prune is mmpse.prune
    with pytest.raises(AttributeError, match='nothing_of_that_name'):
        mmpse.nothing_of_that_name  # noqa: B018


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder().find(mmpse.functions, 'mmpse.functions')
    examples = [test for test in found if test.examples and 'export' not in test.name]
    assert {test.name.rpartition('.')[2] for test in examples} == {*mmpse.__all__} - {
        '__version__',
        'prune',
        'export',
        'transfer',
    }
    for test in examples:
        assert not doctest.DocTestRunner().run(test).failed


@pytest.mark.slow
@pytest.mark.parametrize('name', ['export', 'transfer'])
def test_the_longer_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder().find(getattr(mmpse, name), name, globs={})
    assert not doctest.DocTestRunner().run(test).failed


def test_cost_equals_what_mmengine_counts_on_the_cut_model():
    model, images = torchvision.models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    layout = mmpse.units(model, images)
    small = mmpse.cut(model, layout, 0.5)
    found = get_model_complexity_info(small, (3, 64, 64), show_table=False, show_arch=False)
    assert mmpse.cost(small, images) == dict(flops=found['flops'], params=found['params'])
    assert mmpse.cost(model, images)['flops'] > 3 * found['flops']  # and is left as it was


def test_images_are_needed_of_a_module_alone():
    with pytest.raises(ValueError, match=r'give images to ResNet.*torch.zeros\(1, 3, 64, 64\)'):
        mmpse.units(torchvision.models.resnet18())


def test_a_share_that_is_none():
    model, images = torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match='ratios must be numbers in'):
        mmpse.cut(model, mmpse.units(model, images), 1.5)


def test_the_example_of_the_docs_is_the_one_tested():
    page = (Path(__file__).parents[1] / 'docs/prune.md').read_text()
    lines = [line for line in page.splitlines() if line.strip()]
    assert '\n'.join(filter(str.strip, TEN_LINES.splitlines())) in '\n'.join(lines)


@torch.no_grad()
def test_with_images_half_of_a_model_computes_more_of_what_it_did():
    torch.manual_seed(0)
    model, images = torchvision.models.resnet18().train(), torch.randn(16, 3, 64, 64)
    for _ in range(3):
        model(images)
    layout = mmpse.units(model, images[:1])
    errors = []
    for seen in (None, images):
        half = mmpse.cut(mmpse.sort(model, layout, seen), layout, 0.5, seen)
        assert half.training and model.training
        errors.append((half.eval()(images) - model.eval()(images)).norm())
        model.train()
    assert errors[1] < 0.5 * errors[0]
