# mmseg's DeepLabV3+, 40k iterations on VOC, on a plain ResNet-50, the one of ImageNet classifiers:
# mmseg's own has a deep stem (V1c). `mmpse transfer` gives it the widths and the weights of a
# retrained subnet.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512.py'
model = dict(pretrained=None, backbone=dict(type='ResNet'))
