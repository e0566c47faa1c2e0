# mmseg's DeepLabV3+, 80k iterations on Cityscapes, on a plain ResNet-50, the one of ImageNet
# classifiers: mmseg's own has a deep stem (V1c). `mmpse transfer` gives it the widths and the
# weights of a retrained subnet.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024.py'
model = dict(pretrained=None, backbone=dict(type='ResNet'))
