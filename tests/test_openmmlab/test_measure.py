"""What a model takes on this machine."""

import logging

import torch
from torch import nn

from mmpse.openmmlab.pruning import measure
from mmpse.resources.timing import Latencies


class Subject:
    input_shape = (3, 8, 8)


def test_times_of_a_busy_machine_are_said_to_be(monkeypatch, caplog):
    times = Latencies(before=[0.004, 0.002], after=[0.001])

    def timed(calls):
        return times

    monkeypatch.setattr(measure, 'timed', timed)
    monkeypatch.setattr(measure, 'call_of', lambda *_: None)
    models = dict(before=nn.Conv2d(3, 8, 1), after=nn.Conv2d(3, 4, 1))
    log = logging.getLogger('prune')
    assert measure.measure(Subject, models, log)['before']['latency_ms'] == 3
    assert not caplog.records
    times.busy = 4.0
    measure.measure(Subject, models, log)
    runtimes = 1 if torch.cuda.is_available() else 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == runtimes
    assert 'latency_ms: the machine is busy' in said[0] and '4.0 times' in said[0]
