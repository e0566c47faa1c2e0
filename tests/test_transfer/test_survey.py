"""One config of every kind of model: loss, prediction and reload."""

import json

import pytest

from mmpse.transfer import survey
from mmpse.transfer.config import find_model, load_config, rewrite
from mmpse.transfer.survey import half_subnet, run

KINDS = [
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2021.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py',
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmdet::ssd/ssd300_coco.py',
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py',
]


@pytest.mark.parametrize('config', KINDS)
def test_every_kind_of_model(config):
    old = load_config(config)
    _, model = find_model(old, config)
    cfg = rewrite(config, old, half_subnet(model.backbone))
    run(cfg.model, cfg.default_scope)


@pytest.mark.slow
def test_the_survey_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / 'results.json'
    first = survey('mmseg', out, keep='fcn/fcn_r18')
    assert len(first) > 1 and {r['error'] for r in first.values()} == {None}
    known = dict(list(first.items())[:1])
    name = next(iter(known))
    known[name] = dict(known[name], backbone='as it was written')
    out.write_text(json.dumps(known))
    again = survey('mmseg', out, keep='fcn/fcn_r18')
    assert again.pop(name)['backbone'] == 'as it was written'
    assert again.keys() == first.keys() - {name}
