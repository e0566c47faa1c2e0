# Train the searched subnet from scratch on all of ImageNet: 100 epochs, batch 256, lr 0.1,
# mmpretrain's cosine schedule (the published neighbours retrain ResNet-50 for 100 to 120 epochs,
# batch 256 to 512, lr 0.1 to 0.2). Another subnet:
#   --cfg-options model.subnet=work_dirs/psenet_resnet50_1g_in1k/best_subnet.json
# The full network: model.subnet=None. From the supernet's weights, which are cut as they load:
#   --cfg-options load_from=work_dirs/psenet_resnet50_8xb256_in1k/epoch_50.pth
_base_ = 'mmpretrain::resnet/resnet50_8xb32-coslr_in1k.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
model = dict(
    type='mmpse.Pruned',
    architecture='ImageClassifier',
    subnet='work_dirs/psenet_resnet50_2g_in1k/best_subnet.json',
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2, save_best='auto'))
