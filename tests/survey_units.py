"""What can be pruned of stock configs: the table of docs/units.md, a row a model, in minutes::

    python tests/survey_units.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py ...

Without names it goes through `CONFIGS`. "Lowest" is at the least widths of `mmpse prune`.
"""

import sys
import time
from collections import Counter
from functools import partial

import torch

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.models.outputs import raw_outputs
from mmpse.openmmlab.models.pruned import look
from mmpse.openmmlab.pruning.subject import RATIOS
from mmpse.resources.cost import model_cost
from mmpse.slim import GuardError, Supernet, check

CONFIGS = """
mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
mmdet::atss/atss_r50_fpn_1x_coco.py
mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py
mmdet::gfl/gfl_r50_fpn_1x_coco.py
mmdet::tood/tood_r50_fpn_1x_coco.py
mmdet::vfnet/vfnet_r50_fpn_1x_coco.py
mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py
mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py
mmdet::yolox/yolox_s_8xb8-300e_coco.py
mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py
mmdet::ssd/ssd300_coco.py
mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py
mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py
mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py
mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py
mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py
mmdet::htc/htc_r50_fpn_1x_coco.py
mmdet::dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py
mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss-normed-mask_random-ms-2x_lvis-v1.py
mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py
mmdet::cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco.py
mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py
mmdet::detr/detr_r50_8xb2-150e_coco.py
mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py
mmdet::solov2/solov2_r50_fpn_1x_coco.py
mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py
mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py
mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py
mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py
mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py
mmseg::gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py
mmseg::danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py
mmseg::hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024.py
mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py
mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py
mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py
mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py
mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py
mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py
mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py
mmpretrain::resnet/resnet50_8xb32_in1k.py
mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py
mmpretrain::seresnet/seresnet50_8xb32_in1k.py
mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py
mmpretrain::mobilenet_v3/mobilenet-v3-large_8xb128_in1k.py
mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py
mmpretrain::regnet/regnetx-800mf_8xb128_in1k.py
mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py
mmpretrain::densenet/densenet121_4xb256_in1k.py
mmpretrain::repvgg/repvgg-A0_8xb32_in1k.py
mmpretrain::res2net/res2net50-w14-s8_8xb32_in1k.py
mmpretrain::convnext/convnext-tiny_32xb128_in1k.py
mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py
mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py
mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py
mmpretrain::arcface/resnet50-arcface_8xb32_inshop.py
mmpretrain::inception_v3/inception-v3_8xb32_in1k.py
mmpretrain::hrnet/hrnet-w18_4xb32_in1k.py
mmpretrain::vgg/vgg16bn_8xb32_in1k.py
""".split()


# a piece of a reason -> how the table says it
SHORT = {
    'an output of the model': 'outputs',
    'one channel': 'one channel',
    'mixed before': 'mixed by functions',
    'LayerNorm mixes': 'mixed by LayerNorms',
    'a part of its channels': 'split or shuffled',
    'across the groups': 'groups of several layers',
    'narrows': 'groups that narrow',
    'has offsets': 'offsets in groups',
    'tensor of its width': 'a parameter outside of layers',
    'nothing reads it': 'read by no layer',
}
HEADER = (
    'config',
    'units',
    'fixed',
    'lowest FLOPs',
    'lowest parameters',
    'kept by a supernet',
    'seconds',
    'what keeps its width',
)


def row_of(name):
    """The cells of a model's row."""
    model = build_model(load_config(name))
    start = time.process_time()
    layout, images = look(model)
    seconds = time.process_time() - start
    reasons = Counter(short(why) for why in layout.fixed.values())
    if layout.unseen:
        reasons['not run in prediction'] = len(layout.unseen)
    why = ', '.join(f'{n} {why}' for why, n in reasons.most_common())
    space = layout.space(RATIOS)
    costs = model_cost(model, layout, space, images, partial(raw_outputs, model, deployed=True))
    rows = {k: c.exact(space.array([space.fullnet, space.tinynet])) for k, c in costs.items()}
    lowest = [f'{tiny / full:.0%}' for full, tiny in (rows['flops'], rows['params'])]
    held = Supernet(model, layout, space).held
    if held:
        space = layout.space(RATIOS, grids={unit: dict(ratios=[1.0]) for unit in held})
    try:
        check(model, layout, space, images, raw_outputs)
    except GuardError as error:
        why += f'; **guard**: {error}'
    fixed = len(layout.fixed)
    return len(layout.units), fixed, *lowest, len(held) or '', f'{seconds:.1f}', why


def short(why):
    """A reason in few words; that of the layer that another one is joined with."""
    return next((text for piece, text in SHORT.items() if piece in why), why)


if __name__ == '__main__':
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print('|', ' | '.join(HEADER), '|')
    print('|', ' | '.join(['---'] * len(HEADER)), '|')
    for config in sys.argv[1:] or CONFIGS:
        try:
            row = row_of(config)
        except Exception as error:
            row = [''] * 6 + [f'{type(error).__name__}: {error}'[:300]]
        print('|', ' | '.join(map(str, [f'`{config.removesuffix(".py")}`', *row])), '|', flush=True)
