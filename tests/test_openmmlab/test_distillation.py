"""A teacher beside a model in training: what is compared, against computations by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from search_runs import fresh_name
from torch import nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn.modules.batchnorm import _BatchNorm

from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.teaching.distance import head_distance
from mmpse.openmmlab.teaching.hook import DistillationHook, build_teacher, teacher_of
from mmpse.registry import HOOKS, MODELS

ANCHORS = dict(type='mmdet.AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8, 16, 32])
CODER = dict(type='mmdet.DeltaXYWHBBoxCoder')
ASSIGNER = dict(type='mmdet.MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
NMS = dict(type='nms', iou_threshold=0.7)
SAMPLER = dict(type='mmdet.RandomSampler', num=16, pos_fraction=0.5)
RPN_SAMPLER = dict(SAMPLER, add_gt_as_proposals=False)


def resnet(package, width):
    return dict(type=f'{package}.ResNet', depth=18, base_channels=width, norm_cfg=dict(type='BN'))


def fpn(package, width, channels):
    widths = [width * 2**k for k in range(4)]
    return dict(type=f'{package}.FPN', in_channels=widths, out_channels=channels, num_outs=4)


def classifier(width=8, head='LinearClsHead'):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=resnet('mmpretrain', width),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type=f'mmpretrain.{head}', num_classes=5, in_channels=8 * width),
    )


def dense_detector(width=8, channels=16, kind='RetinaNet', **head):
    return dict(
        type=f'mmdet.{kind}',
        backbone=resnet('mmdet', width),
        neck=fpn('mmdet', width, channels),
        bbox_head=dict(
            type=f'mmdet.{kind.removesuffix("Net")}Head' if kind != 'FCOS' else 'mmdet.FCOSHead',
            num_classes=3,
            in_channels=channels,
            feat_channels=channels,
            stacked_convs=1,
            **head,
        ),
        train_cfg=dict(assigner=ASSIGNER, allowed_border=-1, pos_weight=-1),
        test_cfg=dict(nms_pre=10, score_thr=0.05, nms=NMS, max_per_img=5),
    )


def retinanet(width=8, channels=16):
    return dense_detector(width, channels, anchor_generator=ANCHORS, bbox_coder=CODER)


def fcos(width=8, channels=16):
    head = dict(strides=[4, 8, 16, 32], norm_on_bbox=True, norm_cfg=None)
    ranges = ((-1, 16), (16, 32), (32, 64), (64, 1e8))
    return dense_detector(width, channels, 'FCOS', regress_ranges=ranges, **head)


def faster_rcnn(width=8, channels=16):
    loss = dict(type='mmdet.CrossEntropyLoss')
    rcnn = dict(assigner=ASSIGNER, sampler=SAMPLER, pos_weight=-1)
    return dict(
        type='mmdet.FasterRCNN',
        backbone=resnet('mmdet', width),
        neck=fpn('mmdet', width, channels),
        rpn_head=dict(
            type='mmdet.RPNHead',
            in_channels=channels,
            feat_channels=channels,
            anchor_generator=ANCHORS,
            bbox_coder=CODER,
            loss_cls=dict(loss, use_sigmoid=True),
            loss_bbox=dict(type='mmdet.L1Loss'),
        ),
        roi_head=dict(
            type='mmdet.StandardRoIHead',
            bbox_roi_extractor=dict(
                type='mmdet.SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
                out_channels=channels,
                featmap_strides=[4, 8, 16, 32],
            ),
            bbox_head=dict(
                type='mmdet.Shared2FCBBoxHead',
                in_channels=channels,
                fc_out_channels=16,
                roi_feat_size=7,
                num_classes=3,
                bbox_coder=CODER,
                loss_cls=loss,
                loss_bbox=dict(type='mmdet.L1Loss'),
            ),
        ),
        train_cfg=dict(
            rpn=dict(assigner=ASSIGNER, sampler=RPN_SAMPLER, allowed_border=-1, pos_weight=-1),
            rpn_proposal=dict(nms_pre=20, max_per_img=10, nms=NMS, min_bbox_size=0),
            rcnn=rcnn,
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=20, max_per_img=10, nms=NMS, min_bbox_size=0),
            rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=5),
        ),
    )


def segmentor(width=8, channels=16):
    head = dict(channels=8, num_classes=4, norm_cfg=dict(type='BN'))
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=resnet('mmseg', width),
        neck=fpn('mmseg', width, channels),
        decode_head=dict(
            type='mmseg.FPNHead',
            in_channels=[channels] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            dropout_ratio=0,
            **head,
        ),
        auxiliary_head=dict(type='mmseg.FCNHead', in_channels=channels, in_index=2, **head),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def cascade(width=8, channels=16):
    head = dict(in_channels=channels, in_index=3, channels=8, num_classes=4, dropout_ratio=0)
    return dict(
        segmentor(width, channels),
        type='mmseg.CascadeEncoderDecoder',
        num_stages=2,
        decode_head=[
            dict(head, type='mmseg.FCNHead', num_convs=1, concat_input=False),
            dict(head, type='mmseg.OCRHead', ocr_channels=8, norm_cfg=dict(type='BN')),
        ],
        auxiliary_head=None,
    )


def build(config, scope, seed=0):
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(copy.deepcopy(config)))
        model.init_weights()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def batch_of(package, images=4):
    torch.manual_seed(7)
    samples = []
    for _ in range(images):
        if package == 'mmpretrain':
            sample = DataSample().set_gt_label(1)
        elif package == 'mmdet':
            boxes = torch.tensor([[4.0, 4, 40, 40], [20, 20, 60, 60]])
            instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
            sample = DetDataSample(gt_instances=instances)
        else:
            truth = PixelData(data=torch.randint(0, 4, (1, 64, 64)))
            sample = SegDataSample(gt_sem_seg=truth)
        if package != 'mmpretrain':
            sample.set_metainfo(
                dict(
                    img_shape=(64, 64),
                    ori_shape=(64, 64),
                    pad_shape=(64, 64),
                    batch_input_shape=(64, 64),
                    scale_factor=(1.0, 1.0),
                )
            )
        samples.append(sample)
    return torch.randn(images, 3, 64, 64), samples


KINDS = dict(
    retinanet=(retinanet, 'mmdet'),
    fcos=(fcos, 'mmdet'),
    faster_rcnn=(faster_rcnn, 'mmdet'),
    segmentor=(segmentor, 'mmseg'),
    cascade=(cascade, 'mmseg'),
)


@pytest.fixture
def teach(tmp_path):
    """A hook about to begin, with a teacher and its config's weights."""

    def start(model, config, package, seed=1, **options):
        teacher = build(config, package, seed)
        path = tmp_path / 'teacher.pth'
        torch.save(dict(state_dict=teacher.state_dict()), path)
        hook = DistillationHook(copy.deepcopy(config), str(path), **options)
        runner = SimpleNamespace(model=model, iter=0)
        with DefaultScope.overwrite_default_scope(package):
            hook.before_train(runner)
        return hook, runner, teacher.eval()

    return start


def losses_of(hook, runner, data):
    """The losses of an iteration."""
    hook.before_train_iter(runner, 0)
    losses = runner.model(*data, mode='loss')
    hook.after_train_iter(runner, 0)
    return losses


def neck_distance(outputs, others):
    """By hand: of each kind of output, squared differences by the variances of its levels."""
    kinds = []
    for kind, other in zip(outputs, others, strict=True):
        errors = sum((x - y).pow(2).mean() for x, y in zip(kind, other, strict=True))
        kinds.append(errors / sum(y.var(correction=0) for y in other))
    return sum(kinds) / len(kinds)


# What is compared


@pytest.mark.parametrize('head', ['LinearClsHead', 'MultiLabelLinearClsHead'])
def test_classifiers_are_compared_by_the_form_of_their_loss(teach, head):
    student = build(classifier(4, head), 'mmpretrain').train()
    hook, runner, teacher = teach(student, classifier(8, head), 'mmpretrain', weight=0.5, every=1)
    images, samples = batch_of('mmpretrain')
    losses = losses_of(hook, runner, (images, samples))
    with torch.no_grad():
        student.zero_grad()
        scores = student(images, mode='tensor')
        if head == 'LinearClsHead':
            p, q = (Categorical(logits=x) for x in (teacher(images), scores))
            expected = kl_divergence(p, q).mean()
        else:
            p, q = (Bernoulli(logits=x) for x in (teacher(images), scores))
            expected = kl_divergence(p, q).sum(1).mean()
    assert losses['loss_distill'].item() == pytest.approx(0.5 * expected.item(), rel=1e-4)
    plain = student(images, samples, mode='loss')
    assert plain.keys() == {'loss'} and torch.allclose(plain['loss'], losses['loss'])


@pytest.mark.parametrize('channels', [16, 8])
def test_detectors_are_compared_by_heads_and_equal_necks(teach, channels, caplog):
    student = build(retinanet(4, channels), 'mmdet').train()
    hook, runner, teacher = teach(student, retinanet(), 'mmdet', every=1)
    images, samples = batch_of('mmdet')
    losses = losses_of(hook, runner, (images, samples))
    with torch.no_grad():
        features, others = student.extract_feat(images), teacher.extract_feat(images)
        expected = head_distance(
            student.bbox_head, student.bbox_head(features), teacher.bbox_head(others)
        )[0]
        if channels == 16:
            expected = (expected + neck_distance([features], [others])) / 2
    assert losses['loss_distill'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_two_stages_are_compared_by_rpn_and_neck(teach, caplog):
    student = build(faster_rcnn(4), 'mmdet').train()
    hook, runner, teacher = teach(student, faster_rcnn(), 'mmdet', every=1)
    images, samples = batch_of('mmdet')
    losses = losses_of(hook, runner, (images, samples))
    with torch.no_grad():
        features, others = student.extract_feat(images), teacher.extract_feat(images)
        expected = head_distance(
            student.rpn_head, student.rpn_head(features), teacher.rpn_head(others)
        )[0]
        expected = (expected + neck_distance([features], [others])) / 2
    assert losses['loss_distill'].item() == pytest.approx(expected.item(), rel=1e-4)
    assert {'loss_rpn_cls', 'loss_cls', 'loss_distill'} < losses.keys()


def test_segmentors_are_compared_without_auxiliary_heads(teach):
    student = build(segmentor(4, 8), 'mmseg').train()
    hook, runner, teacher = teach(student, segmentor(), 'mmseg', every=1)
    images, samples = batch_of('mmseg')
    losses = losses_of(hook, runner, (images, samples))
    with torch.no_grad():
        scores, others = (m.decode_head(m.extract_feat(images)) for m in (student, teacher))
        p, q = (Categorical(logits=x.movedim(1, -1)) for x in (others, scores))
    expected = kl_divergence(p, q).mean().item()
    assert losses['loss_distill'].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('name', KINDS)
def test_the_teacher_itself_is_at_no_distance(teach, name):
    config, package = KINDS[name]
    student = build(config(), package, seed=1).train()
    for module in student.modules():
        if isinstance(module, (_BatchNorm, nn.Dropout2d)):
            module.eval()
    hook, runner, _ = teach(student, config(), package, seed=1, every=1)
    data = batch_of(package)
    assert losses_of(hook, runner, data)['loss_distill'].item() < 1e-10
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert losses_of(hook, runner, data)['loss_distill'].item() > 1e-3


@pytest.mark.parametrize(
    ('name', 'line'),
    [
        (
            'retinanet',
            'bbox_head (sigmoid, and boxes); left out: neck has 8 channels, the',
        ),
        (
            'faster_rcnn',
            'rpn_head (sigmoid, and boxes); left out: neck .*; roi_head is not called on',
        ),
        (
            'segmentor',
            'decode_head (softmax); left out: auxiliary_head does not predict; neck',
        ),
        ('cascade', 'decode_head.0 (softmax), decode_head.1 (softmax); left out: neck'),
    ],
)
def test_one_line_says_what_is_compared(teach, name, line, monkeypatch):
    said = []
    monkeypatch.setattr('mmpse.openmmlab.teaching.hook.print_log', lambda x, **_: said.append(x))
    config, package = KINDS[name]
    hook, runner, _ = teach(build(config(4, 8), package).train(), config(), package, every=1)
    for _ in range(2):
        losses_of(hook, runner, batch_of(package))
    (found,) = said
    assert all(part in found for part in line.split(' .*'))


# When


def test_every_kth_iteration_has_the_gradient_of_k(teach):
    student = build(classifier(4), 'mmpretrain').train()
    data = batch_of('mmpretrain')
    found = {}
    for every in (1, 3):
        hook, runner, _ = teach(student, classifier(), 'mmpretrain', every=every)
        for runner.iter in range(6):
            losses = losses_of(hook, runner, data)
            found[every, runner.iter] = losses.get('loss_distill', torch.zeros(())).item()
    assert [found[3, k] for k in (1, 2, 4, 5)] == [0] * 4
    assert sum(found[1, k] for k in range(6)) == pytest.approx(sum(found[3, k] for k in range(6)))


def test_nothing_stays_on_the_model_between_iterations(teach):
    student = build(retinanet(4), 'mmdet').train()
    hook, runner, _ = teach(student, retinanet(), 'mmdet', every=1)
    own = {name: set(module.__dict__) for name, module in student.named_modules()}
    images, samples = batch_of('mmdet')
    losses_of(hook, runner, (images, samples))
    assert {name: set(module.__dict__) for name, module in student.named_modules()} == own
    assert not student._forward_hooks and 'loss_distill' not in student(images, samples, 'loss')
    copy.deepcopy(student).eval()(images, samples, mode='predict')


def test_behind_a_ddp_wrapper_in_mixed_precision(teach, tmp_path):
    student = build(classifier(4), 'mmpretrain').train()
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
    )
    try:
        wrapped = MMDistributedDataParallel(student)
        hook, runner, teacher = teach(wrapped, classifier(), 'mmpretrain', every=1)
        optim_wrapper = OptimWrapper(torch.optim.SGD(student.parameters(), lr=0.1))
        images, samples = batch_of('mmpretrain')
        hook.before_train_iter(runner, 0)
        with torch.autocast('cpu', torch.bfloat16):
            log = wrapped.train_step(dict(inputs=images, data_samples=samples), optim_wrapper)
        hook.after_train_iter(runner, 0)
        assert log['loss_distill'].dtype == torch.float32 and log['loss_distill'] > 0
        assert log['loss'] > log['loss_distill']
        assert all(p.grad is None for p in hook.teaching.teacher.parameters())
    finally:
        torch.distributed.destroy_process_group()


# A whole training


class Images(torch.utils.data.Dataset):
    metainfo = dict(classes=tuple('abcde'))

    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 5))


def runner_of(work_dir, hooks=(), epochs=2, **options):
    loader = dict(
        batch_size=8,
        dataset=Images(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    cfg = dict(
        model=dict(
            classifier(4),
            data_preprocessor=dict(
                type='mmpretrain.ClsDataPreprocessor', mean=[127.5] * 3, std=[64.0] * 3
            ),
        ),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, collate_fn=dict(type='pseudo_collate')),
        val_dataloader=dict(loader, collate_fn=dict(type='pseudo_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(),
        val_evaluator=dict(type='mmpretrain.Accuracy'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(hooks),
        default_scope='mmpretrain',
        experiment_name=fresh_name(),
        randomness=dict(seed=0),
        log_level='WARNING',
        **options,
    )
    return Runner(**cfg)


@pytest.fixture
def teacher_hook(tmp_path):
    """Config of a hook whose teacher comes from files, as a user has them."""
    config, checkpoint = tmp_path / 'teacher.py', tmp_path / 'teacher.pth'
    body = dict(
        model=classifier(8),
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=[127.5] * 3, std=[64.0] * 3, num_classes=5
        ),
        default_scope='mmpretrain',
    )
    Config(body).dump(config)
    teacher = build(body['model'], 'mmpretrain', seed=1)
    teacher.head.fc.weight.data.mul_(100)  # it is sure of what it says
    torch.save(dict(state_dict=teacher.state_dict()), checkpoint)
    return dict(type='mmpse.DistillationHook', teacher=str(config), checkpoint=str(checkpoint))


class Distance(Hook):
    """Keeps the distance to the teacher before the training and after it."""

    priority = 'HIGHEST'

    def __init__(self, hook):
        self.hook = hook
        self.found = []

    def measure(self, model):
        model.eval()
        images = torch.stack([Images()[k]['inputs'] for k in range(24)]).float() / 64 - 2
        with torch.no_grad():
            p, q = (Categorical(logits=m(images)) for m in (self.hook.teaching.teacher, model))
        model.train()
        self.found.append(kl_divergence(p, q).mean().item())

    def before_train_iter(self, runner, **_):
        if not self.found:
            self.measure(runner.model)

    def after_train(self, runner):
        self.measure(runner.model)


def test_training_brings_the_model_near_the_teacher(teacher_hook, tmp_path):
    """And it is resumed to the same weights, with no teacher in the checkpoint."""
    state = {}
    for name, options in dict(
        whole=dict(epochs=2),
        first=dict(epochs=1),
        second=dict(epochs=2, resume=True, load_from=str(tmp_path / 'first/epoch_1.pth')),
    ).items():
        runner = runner_of(tmp_path / name, [teacher_hook], **options)
        runner.train()
        checkpoint = torch.load(
            tmp_path / name / f'epoch_{options["epochs"]}.pth', weights_only=False
        )
        assert checkpoint['state_dict'].keys() == runner.model.state_dict().keys()
        state[name] = checkpoint
    assert 'teacher' not in str({k: v for k, v in state['whole'].items() if k != 'meta'}.keys())
    for key, value in state['whole']['state_dict'].items():
        assert torch.equal(value, state['second']['state_dict'][key]), key
    scalars = runner.message_hub.log_scalars
    assert 'train/loss_distill' in scalars and 'val/loss_distill' not in scalars


def test_the_distance_falls_with_a_teacher_and_not_without(teacher_hook, tmp_path):
    found = {}
    for weight in (1e-9, 1.0):
        runner = runner_of(tmp_path / f'{weight}', [dict(teacher_hook, weight=weight)], epochs=8)
        hook = next(h for h in runner.hooks if isinstance(h, DistillationHook))
        distance = Distance(hook)
        runner.register_hook(distance)
        runner.train()
        found[weight] = distance.found
    assert found[1.0][-1] < 0.5 * found[1e-9][-1] and found[1.0][-1] < 0.5 * found[1.0][0]


# What is wrong


class OwnModel(BaseModel):
    """Its head reads numbers that are made between the parts."""

    def __init__(self, width, channels=3, **kwargs):
        super().__init__(**kwargs)
        self.backbone = nn.Conv2d(3, width, 3)
        self.neck = nn.Conv2d(width, channels, 1)
        self.head = nn.Linear(channels, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        feature = self.neck(self.backbone(inputs))
        return dict(loss=self.head(feature.mean((2, 3))).square().mean())


def test_what_is_not_a_function_of_the_parts_is_left_out(teach, monkeypatch):
    said = []
    monkeypatch.setattr('mmpse.openmmlab.teaching.hook.print_log', lambda x, **_: said.append(x))
    student = OwnModel(2)
    hook, runner, teacher = teach(student, dict(type=OwnModel, width=4), 'mmengine', every=1)
    images = torch.randn(4, 3, 8, 8)
    found = losses_of(hook, runner, (images,))['loss_distill'].item()
    features = [m.neck(m.backbone(images)) for m in (student, teacher)]
    assert found == pytest.approx(neck_distance([features[:1]], [features[1:]]).item(), rel=1e-4)
    assert (
        'compared in neck (raw outputs); left out: head reads numbers that are neither' in said[0]
    )


def test_nothing_to_compare(teach):
    other = dict(type=OwnModel, width=4, channels=5)
    hook, runner, _ = teach(OwnModel(2), other, 'mmengine', every=1)
    with pytest.raises(ValueError, match='nothing of this OwnModel .* neck has'):
        losses_of(hook, runner, (torch.randn(4, 3, 8, 8),))


def test_teacher_of_other_classes(teach):
    other = classifier(8)
    other['head']['num_classes'] = 7
    student = build(classifier(4), 'mmpretrain').train()
    hook, runner, _ = teach(student, other, 'mmpretrain', every=1)
    with pytest.raises(ValueError, match="head cannot .* 5 channels, the teacher's 7"):
        losses_of(hook, runner, batch_of('mmpretrain'))


def test_checkpoint_of_another_model(teach, tmp_path):
    student = build(classifier(4), 'mmpretrain')
    torch.save(student.state_dict(), tmp_path / 'student.pth')
    hook = DistillationHook(classifier(8), str(tmp_path / 'student.pth'))
    said = pytest.raises(ValueError, match='student.pth is not a checkpoint of this ImageClassif')
    with DefaultScope.overwrite_default_scope('mmpretrain'), said:
        hook.before_train(SimpleNamespace(model=student))


def test_teacher_that_normalises_otherwise(teach):
    configs = [
        dict(
            retinanet(),
            data_preprocessor=dict(type='mmdet.DetDataPreprocessor', mean=[m] * 3, std=[1.0] * 3),
        )
        for m in (0.0, 127.5)
    ]
    with pytest.raises(ValueError, match=r'mean=\[0.0, 0.0, 0.0\] and \[127.5, 127.5, 127.5\]'):
        teach(build(configs[0], 'mmdet'), configs[1], 'mmdet')


@pytest.mark.parametrize('options', [dict(every=0), dict(every=1.5), dict(weight=0)])
def test_bad_arguments(options):
    (name,) = options
    with pytest.raises(ValueError, match=f'{name} must be'):
        HOOKS.build(dict(type='mmpse.DistillationHook', teacher={}, checkpoint='', **options))


def test_a_config_that_was_changed_in_memory_is_a_teacher(tmp_path):
    path = tmp_path / 'full.py'
    shared = dict(type='mmpretrain.ClsDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3)
    path.write_text(
        f"model = {classifier()!r}\ndata_preprocessor = {shared!r}\ndefault_scope = 'mmpretrain'\n"
    )
    cfg = Config.fromfile(path)
    assert teacher_of(path) == str(path)
    cfg.model.head.num_classes = 7
    model = build_model(cfg)
    save_checkpoint(tmp_path / 'full.pth', model)
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # as a runner has it
        teacher = build_teacher(teacher_of(cfg), str(tmp_path / 'full.pth'))
    assert teacher.data_preprocessor.mean.flatten().tolist() == [1.0] * 3
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher(images), model.eval()(images))
