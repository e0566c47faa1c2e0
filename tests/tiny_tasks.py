"""A classifier, a detector and a segmentor on the embedded digits, each trained in no time."""

from pathlib import Path

import torch
from mmengine.config import Config

from mmpse.openmmlab.checkpoints.files import save_checkpoint
from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.pruning import measure

COMMON = """
default_scope = '{scope}'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
model = {model}
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmpse.DigitsDataset',
        task='{task}',
        split='train',
        data_root={root!r},
        indices=[*range(0, {of[0]}, {of[0]} // 48)],
        pipeline={train},
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpse.DigitsDataset',
        task='{task}',
        split='test',
        data_root={root!r},
        indices=[*range(0, {of[1]}, {of[1]} // 16)],
        test_mode=True,
        pipeline={val},
    ),
)
val_evaluator = {evaluator}
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=1)
val_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9), clip_grad=dict(max_norm=1.0))
log_level = 'WARNING'
"""
# of the train and test splits
IMAGES = dict(classification=(1008, 448), detection=(576, 144), segmentation=(576, 144))
PREPROCESSOR = 'mean=[127.5] * 3, std=[127.5] * 3'
RESNET = "depth=18, base_channels=16, stem_channels=16, norm_cfg=dict(type='BN')"
TASKS = dict(
    classification=dict(
        scope='mmpretrain',
        model=f"""dict(
    type='ImageClassifier',
    data_preprocessor=dict({PREPROCESSOR}, num_classes=10),
    backbone=dict(type='ResNet', {RESNET}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=128,
        loss=dict(type='CrossEntropyLoss'), topk=(1,)),
)""",
        train="[dict(type='LoadImageFromFile'), dict(type='PackInputs')]",
        val="[dict(type='LoadImageFromFile'), dict(type='PackInputs')]",
        evaluator="dict(type='Accuracy', topk=(1,))",
    ),
    detection=dict(
        scope='mmdet',
        model=f"""dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', {PREPROCESSOR}, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', num_stages=4, out_indices=(1, 2, 3), frozen_stages=-1, {RESNET}),
    neck=dict(type='FPN', in_channels=[32, 64, 128], out_channels=32, num_outs=3),
    bbox_head=dict(
        type='RetinaHead', num_classes=10, in_channels=32, stacked_convs=1, feat_channels=32,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=3, scales_per_octave=1,
            ratios=[1.0], strides=[8, 16, 32])),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
)""",
        train="""[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs')]""",
        val="""[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 128)),
            dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]""",
        evaluator="dict(type='CocoMetric', ann_file=ANNOTATIONS, metric='bbox')",
    ),
    segmentation=dict(
        scope='mmseg',
        model=f"""dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', {PREPROCESSOR}, size=(128, 128)),
    backbone=dict(type='ResNet', contract_dilation=True, {RESNET}),
    decode_head=dict(
        type='FCNHead', in_channels=128, in_index=3, channels=16, num_convs=1, num_classes=11,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)""",
        train="""[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]""",
        val="""[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]""",
        evaluator="dict(type='IoUMetric', iou_metrics=['mIoU'])",
    ),
)


def write_task(task: str, digits: Path, folder: Path) -> tuple[Path, Path]:
    """Config and checkpoint of a small model; its weights are random but always the same.

    Args:
        task: ``'classification'``, ``'detection'`` or ``'segmentation'``.
        digits: What :func:`mmpse.datasets.prepare_digits` wrote.
        folder: Where both files go.
    """
    parts = TASKS[task]
    text = COMMON.format(task=task, root=str(digits), of=IMAGES[task], **parts)
    annotations = str(digits / 'scenes/annotations/test.json')
    text = text.replace('ANNOTATIONS', repr(annotations))
    config, checkpoint = folder / f'{task}.py', folder / f'{task}.pth'
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    torch.manual_seed(0)
    save_checkpoint(checkpoint, build_model(Config.fromfile(config)))
    return config, checkpoint


def without_onnx(monkeypatch) -> None:
    """Let reports leave out onnxruntime: its export takes longer than all the rest."""
    prepared = measure.prepared

    def torch_alone(model, images, runtime):
        if runtime == 'onnxruntime':
            raise ImportError('no onnxruntime here')
        return prepared(model, images, runtime)

    monkeypatch.setattr(measure, 'prepared', torch_alone)
