"""``prune(how='search')``: what it explores, what it takes, and going on after a kill."""

import json

import numpy as np
import pytest
import torch
from tiny_tasks import write_task

import mmpse.api
from mmpse.openmmlab.pruning import choosing


class Killed(Exception):
    pass


def prune(task, out, **options):
    config, checkpoint = task
    return mmpse.api.prune(
        config, checkpoint, flops='60%', how='search', finetune=False, out=out, **options
    )


def read(out, step):
    return json.loads((out / f'steps/{step}.json').read_text())


def test_search_improves_on_sensitivity_or_keeps_its_widths(digits, tmp_path):
    out = tmp_path / 'out'
    result = prune(write_task('detection', digits, tmp_path), out)
    assert result.table['after']['flops'] <= 0.6 * result.table['before']['flops']

    explored, judged = read(out, 'explored'), read(out, 'judged')
    assert explored[0]['widths'] == judged[0]['widths']
    assert judged[0]['name'].startswith(('uniform', 'sensitivity'))
    assert all(row['name'].startswith('search') for row in judged[1:])
    widths = np.array([row['widths'] for row in explored])
    assert len(widths) == 1 + 24 and (np.ptp(widths, axis=0) > 0).mean() > 0.9
    best = min(judged, key=lambda row: row['loss'])
    won = best if best['error'] is not None and best['gain'] > best['error'] else judged[0]
    assert list(result.subnet.values()) == won['widths']
    assert 'judged subnets, what a unit costs:\nunit ' in (out / 'prune.log').read_text()


@pytest.mark.slow
def test_killed_while_exploring_it_ends_with_the_same_files(digits, tmp_path, monkeypatch):
    task = write_task('classification', digits, tmp_path)
    whole = prune(task, tmp_path / 'whole')
    fit, left = choosing.cut_, [12]

    def killing(*args):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return fit(*args)

    monkeypatch.setattr(choosing, 'cut_', killing)
    with pytest.raises(Killed):
        prune(task, tmp_path / 'killed')
    assert not (tmp_path / 'killed/steps/explored.json').exists()
    torch.manual_seed(999)
    result = prune(task, tmp_path / 'killed', resume=True)
    assert result.subnet == whole.subnet
    first, second = (torch.load(r.out / 'pruned.pth')['state_dict'] for r in (whole, result))
    assert all(torch.equal(first[key], second[key]) for key in first)
