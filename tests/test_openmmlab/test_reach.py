"""What is reachable, and what holds it up."""

import copy
import dataclasses

import pytest
import torch
from tiny_tasks import write_task
from torch import nn

import mmpse
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.pruning.reach import Reach, reachable
from mmpse.openmmlab.pruning.subject import examine


@pytest.fixture(scope='module')
def subject(digits, tmp_path_factory):
    config, checkpoint = write_task('detection', digits, tmp_path_factory.mktemp('task'))
    return examine(config, checkpoint, grids={'neck.*': dict(ratios=[1.0])})


def test_rows_are_what_the_cut_models_cost(subject):
    reach = reachable(subject, dict(flops='60%', params='40%'))
    subnets = dict(lowest=subject.space.tinynet, uniform=reach.uniform, full=subject.space.fullnet)
    for name, widths in subnets.items():
        model = mmpse.cut(subject.model.cpu(), subject.layout, widths)
        assert mmpse.cost(model, torch.zeros(1, *subject.input_shape)) == reach.rows[name]
    assert reach.rows['uniform']['flops'] <= 0.6 * reach.rows['full']['flops']
    assert reach.rows['uniform']['params'] <= 0.4 * reach.rows['full']['params']


def test_shares_of_what_keeps_its_width(subject):
    groups = {group.layers: group for group in reachable(subject).fixed}
    outputs = groups['bbox_head.retina_cls', 'bbox_head.retina_reg']
    assert outputs.why == 'it is an output of the model'
    head = subject.model.bbox_head
    cells = 16 * 16 + 8 * 8 + 4 * 4  # of three levels
    costs = mmpse.cost(subject.model, torch.zeros(1, *subject.input_shape))
    weights = head.retina_cls.weight.numel() + head.retina_reg.weight.numel()
    biases = head.retina_cls.bias.numel() + head.retina_reg.bias.numel()
    assert outputs.full['flops'] == pytest.approx(weights * cells / costs['flops'])
    assert outputs.full['params'] == pytest.approx((weights + biases) / costs['params'])
    kept = next(group for layers, group in groups.items() if layers[0].startswith('neck.'))
    assert kept.why == 'its grid has no other width (--keep, --divisor)' and len(kept.layers) == 6
    assert kept.lowest['flops'] > kept.full['flops'] > 0


def test_layers_that_a_prediction_does_not_run_are_told(subject):
    assert 'does not run' not in str(reachable(subject))
    assert 'one image of 3 128 128' in str(reachable(subject))
    model = copy.deepcopy(subject.model)
    model.bbox_head.only_in_the_loss = nn.Sequential(*(nn.Conv2d(32, 32, 1) for _ in range(5)))
    other = dataclasses.replace(subject, model=model, layout=look(model)[0])
    text = str(reachable(other))
    names = ', '.join(f'bbox_head.only_in_the_loss.{k}' for k in range(4))
    assert f'does not run {names} and 1 more,' in text and '--keep' in text


def test_the_windows_of_a_segmentor_are_not_its_images(digits, tmp_path):
    config, _ = write_task('segmentation', digits, tmp_path)
    whole = "mode='whole'"
    text = config.read_text()
    assert whole in text
    config.write_text(text.replace(whole, "mode='slide', crop_size=(64, 64), stride=(32, 32)"))
    said = str(reachable(examine(config, None)))
    assert 'of one window of 3 64 64 (test_cfg.mode=slide: an image has several); --inp' in said
    assert 'of one image of 3 128 128;' in str(reachable(examine(config, None, (3, 128, 128))))


def test_latency_is_said_in_milliseconds():
    rows = dict(lowest=dict(flops=10**6, latency=2000), full=dict(flops=2 * 10**6, latency=5000))
    header, lines = Reach(rows, ()).cells
    assert header == ['what is reachable', 'FLOPs', 'latency']
    assert lines == [['lowest', '1 M (50%)', '2 ms (40%)'], ['full', '2 M (100%)', '5 ms (100%)']]
