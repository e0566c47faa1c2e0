# Faster R-CNN on the full MobileNetV2 1.5x.
_base_ = [
    '../_base_/detectors/faster-rcnn_mobilenet-v2_fpn_1x_coco.py',
    '../_base_/backbones/mobilenet-v2-w1p5-full.py',
]
model = dict(backbone={{_base_.retrained}})
