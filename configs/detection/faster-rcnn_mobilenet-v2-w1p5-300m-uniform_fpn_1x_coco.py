# Faster R-CNN on the MobileNetV2 1.5x pruned uniformly to the FLOPs of the searched one.
_base_ = [
    '../_base_/detectors/faster-rcnn_mobilenet-v2_fpn_1x_coco.py',
    '../_base_/backbones/mobilenet-v2-w1p5-300m-uniform.py',
]
model = dict(backbone={{_base_.retrained}})
