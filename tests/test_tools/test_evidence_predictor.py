"""The predictor of a search, compared with the FLOPs on a small classifier."""

import json
import sys

import pytest
import torch
from conftest import ROOT
from evidence import tools  # noqa: F401  a fixture

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config

pytestmark = pytest.mark.slow


def test_subnets_are_predicted_and_judged(tmp_path, monkeypatch, digits):
    import predictor
    from runs import Model

    config = str(ROOT / 'configs/quickstart/classifier_digits.py')
    checkpoint = tmp_path / 'model.pth'
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(load_config(config)).state_dict()), checkpoint)
    model = Model('a classifier', config, 'accuracy/top1', 2, ('50%',))
    monkeypatch.setattr(predictor, 'MODELS', dict(digits=model))
    monkeypatch.setattr(predictor, 'trained', lambda name: checkpoint)
    monkeypatch.setattr(predictor, 'SUBNETS', 3)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['predictor.py', 'digits'])
    predictor.main()
    record = json.loads((tmp_path / 'docs/results/predictor/digits_50_0.json').read_text())
    assert len(record['flops']) == len(record['predicted']) == len(record['losses']) == 3
    assert all(0 <= score <= 100 for score in record['scores']) and record['explored'] >= 25
