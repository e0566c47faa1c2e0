# Train one static network from scratch: the searched subnet, or another one with
#   --cfg-options model.subnet=other_subnet.json
# or the full network with model.subnet=None.
_base_ = [
    '../_base_/models/mobilenet-v2.py',
    '../_base_/datasets/digits_classification.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='mmpse.Pruned',
    architecture='ImageClassifier',
    subnet='work_dirs/search_mobilenet-v2_digits/best_subnet.json',
    head=dict(num_classes=10, topk=(1,)),
)

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=2, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=15)
val_cfg = val_dataloader = val_evaluator = None
test_cfg = dict()
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=2, save_last=True), logger=dict(interval=16)
)
custom_hooks = [dict(type='mmpse.ChannelsLastHook')]
