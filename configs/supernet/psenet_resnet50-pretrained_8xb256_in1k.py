# The same, but started from torchvision's ResNet-50 (classifier included), its channels sorted by
# BatchNorm scale. Another checkpoint: --cfg-options model.init_cfg.checkpoint=my_resnet50.pth
# Nothing else is changed, so that the two can be compared.
_base_ = 'psenet_resnet50_8xb256_in1k.py'
model = dict(init_cfg=dict(type='mmpse.WarmStart', checkpoint='torchvision://resnet50', sort='bn'))
