"""What each subnet of a shared batch lost, against the subnet cut and run on its images alone."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import LinearClsHead
from test_distillation import KINDS, batch_of, build, classifier

from mmpse.openmmlab.models.batches import copied
from mmpse.openmmlab.supernet.building import find_supernet
from mmpse.openmmlab.supernet.groups import GroupLosses
from mmpse.openmmlab.supernet.losses import SubnetLosses
from mmpse.slim import cut_

N = 2


def supernet_of(kind, changes=None):
    """A model in training mode, as a supernet, and a batch of it."""
    make, package = KINDS[kind]
    config = Config(make())
    config.merge_from_dict(changes or {})
    model = build(config.to_dict(), package)
    supernet, _ = find_supernet(model, Config(dict(model={})), dict(divisor=4), (3, 64, 64))
    return model.train(), supernet, batch_of(package)


def some(space):
    return [space.uniform(0.75), space.tinynet]


@pytest.mark.parametrize('execution', ['sliced', 'masked'])
@pytest.mark.parametrize('kind', KINDS)
def test_each_subnet_loses_what_it_does_alone(kind, execution):
    changes = {}
    if kind == 'faster_rcnn':  # all are drawn
        keys = [f'train_cfg.{part}.sampler.num' for part in ('rpn', 'rcnn')]
        changes = dict.fromkeys(keys, 10_000)
    model, supernet, (images, samples) = supernet_of(kind, changes)
    subnets, losses = some(supernet.space), GroupLosses(model, supernet)
    expected = []
    for g, subnet in enumerate(subnets):
        static = cut_(copy.deepcopy(model), supernet.layout, subnet)
        output = static(images[g::N], copied(samples[g::N]), mode='loss')
        expected.append(static.parse_losses(output)[0])
    with supernet.active(subnets, execution), losses.listening(0):
        model(images, copied(samples), mode='loss')
    torch.testing.assert_close(losses.of_subnets(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert not losses.of_subnets().requires_grad
    losses.begin()
    with supernet.active(subnets, execution), losses.listening(1):
        model(images, copied(samples), mode='loss')
    assert losses.of_subnets() is None


@pytest.mark.parametrize('kind', ['faster_rcnn', 'retinanet'])
def test_a_step_is_the_same_as_without(kind):
    """Its gradients, what is drawn after it, statistics (of a head of regions, too), and what a
    loss counts (GHM)."""
    head = dict(type='mmdet.Shared4Conv1FCBBoxHead', norm_cfg=dict(type='BN'), conv_out_channels=8)
    changes = {f'roi_head.bbox_head.{key}': value for key, value in head.items()}
    if kind == 'retinanet':
        ghm = dict(type='mmdet.GHMC', bins=10, momentum=0.5, use_sigmoid=True)
        changes = {'bbox_head.loss_cls': ghm}
    results = []
    for listens in (False, True):
        model, supernet, (images, samples) = supernet_of(kind, changes)
        losses = GroupLosses(model, supernet)
        torch.manual_seed(3)
        with supernet.active(some(supernet.space)):
            if listens:
                with losses.listening(0):
                    output = model(images, samples, mode='loss')
            else:
                output = model(images, samples, mode='loss')
            model.parse_losses(output)[0].backward()
        drawn = torch.rand(3)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([drawn, *grads, *model.buffers()])
        if kind == 'retinanet':
            results[-1].append(model.bbox_head.loss_cls.acc_sum)
    assert len(losses.of_subnets()) == N
    assert all(map(torch.equal, *results))


def test_one_after_the_other_every_subnet_sees_the_batch():
    model, supernet, (images, samples) = supernet_of('retinanet')
    losses, expected = GroupLosses(model, supernet), []
    for subnet in some(supernet.space):
        with supernet.active([subnet]), losses.listening(0):
            output = model(images, copied(samples), mode='loss')
            expected.append(model.parse_losses(output)[0].detach())
    torch.testing.assert_close(losses.of_subnets(), torch.stack(expected))


def test_a_loss_that_fails_at_few_images_stops_no_training(monkeypatch):
    model, supernet, (images, samples) = supernet_of('retinanet')
    head = type(model.bbox_head)
    loss_by_feat, said = head.loss_by_feat, []

    def picky(self, scores, *args, **kwargs):
        return (
            torch.stack([]) if len(scores[0]) < 4 else loss_by_feat(self, scores, *args, **kwargs)
        )

    monkeypatch.setattr(head, 'loss_by_feat', picky)
    monkeypatch.setattr('mmpse.openmmlab.supernet.groups.print_log', lambda *x: said.append(x[0]))
    losses = GroupLosses(model, supernet)
    for _ in range(2):
        losses.begin()
        with supernet.active(some(supernet.space)), losses.listening(0):
            model(images, copied(samples), mode='loss')
        assert losses.of_subnets().isnan().tolist() == [True, True]
    assert len(said) == 1 and 'RetinaNet fail on the images of one subnet (RuntimeError' in said[0]


@pytest.mark.parametrize('serial', [False, True], ids=['parallel', 'serial'])
def test_a_head_of_several_scores(serial, monkeypatch):
    """As a Conformer's, whose loss is the mean of theirs."""

    def loss(self, feats, samples):
        score, labels = self(feats), torch.cat([sample.gt_label for sample in samples])
        losses = [self.loss_module(x, labels, avg_factor=len(x)) for x in (score, 2 * score)]
        return dict(loss=sum(losses) / 2)

    monkeypatch.setattr(LinearClsHead, 'loss', loss)
    model = build(classifier(), 'mmpretrain')
    supernet, _ = find_supernet(model, Config(dict(model={})), dict(divisor=4), (3, 64, 64))
    images, samples = batch_of('mmpretrain')
    subnets = some(supernet.space)
    losses = SubnetLosses(model.train(), supernet, None, N, serial, fullnet=False)
    expected = []
    for g, subnet in enumerate(subnets):
        share = slice(None) if serial else slice(g, None, N)
        static = cut_(copy.deepcopy(model), supernet.layout, subnet)
        expected.append(static(images[share], samples[share], mode='loss')['loss'].item())
    losses.begin()
    for passed in [[subnet] for subnet in subnets] if serial else [subnets]:
        with supernet.active(passed):
            model(images, samples, mode='loss')
    assert losses.of_subnets().tolist() == pytest.approx(expected, rel=1e-4)
