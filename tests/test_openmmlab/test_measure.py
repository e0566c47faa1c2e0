"""What a model takes on this machine."""

import logging

import numpy as np
import torch
from torch import nn

from mmpse.openmmlab.pruning import measure
from mmpse.openmmlab.pruning.subject import numbers_of
from mmpse.resources.timing import Latencies


class Subject:
    input_shape = (3, 8, 8)


def test_how_busy_the_machine_was_is_told(monkeypatch):
    times = Latencies(dict(before=[0.004, 0.002], after=[0.001]))
    times.busy = 4.0
    monkeypatch.setattr(measure, 'timed', lambda _: times)
    monkeypatch.setattr(measure, 'prepared', lambda *_: None)
    models = dict(before=nn.Conv2d(3, 8, 1), after=nn.Conv2d(3, 4, 1))
    found = measure.measure(Subject, models, logging.getLogger('prune'))
    assert found['before']['latency_ms'] == 3
    assert found['busy']['latency_ms'] == 4.0
    assert len(found['busy']) == (1 if torch.cuda.is_available() else 2)


def test_metrics_are_numbers_of_any_type():
    metrics = dict(a=1, b=torch.tensor(0.5), c=np.float32(0.25), d='text', e=torch.ones(2), f=[1])
    assert numbers_of(metrics) == dict(a=1.0, b=0.5, c=0.25)
    assert numbers_of(dict(zebra=float('nan'))) == dict(zebra=None)
