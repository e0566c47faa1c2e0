# Train the subnet searched at half the FLOPs from scratch on all of ImageNet, with mmpretrain's own
# recipe for VGG16-BN: 100 epochs, batch 256, lr 0.1 divided by 10 at epochs 30, 60 and 90.
_base_ = 'mmpretrain::vgg/vgg16bn_8xb32_in1k.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    type='mmpse.Pruned',
    architecture='ImageClassifier',
    subnet='work_dirs/psenet_vgg16bn_half_in1k/best_subnet.json',
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
