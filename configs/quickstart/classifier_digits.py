# A stock MobileNetV2 on the embedded digits: what `mmpse prune` starts from in the demo. Nothing is
# chosen by the validation images, which no training sees.
_base_ = [
    'mmpretrain::_base_/models/mobilenet_v2_1x.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/default_runtime.py',
]
model = dict(head=dict(num_classes=10, topk=(1,)))
val_dataloader = dict(dataset=dict(split='test'))

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=2, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=12)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=6, max_keep_ckpts=2), logger=dict(interval=16))
