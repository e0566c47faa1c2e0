import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from mmpse.openmmlab.models.recalibration import recalibrate
from mmpse.registry import MODELS


class Net(BaseModel):
    def __init__(self):
        super().__init__(BaseDataPreprocessor())
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4, momentum=0.3)
        self.drop = nn.Dropout(0.9)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.bn(self.drop(self.conv(inputs)))


def test_statistics_are_the_mean_over_the_batches():
    model = Net()
    batches = [dict(inputs=torch.randn(8, 3, 4, 4)) for _ in range(3)]
    model.bn.running_mean.fill_(99)
    recalibrate(model, batches)
    with torch.no_grad():
        outputs = [model.conv(b['inputs']) for b in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    var = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    assert torch.allclose(model.bn.running_mean, mean, atol=1e-6)
    assert torch.allclose(model.bn.running_var, var, atol=1e-5)
    assert model.bn.momentum == 0.3 and model.training
    assert model.conv.weight.grad is None


class Unflipping(Net):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert not any(sample.flip for sample in data_samples)  # as a Cascade Mask R-CNN fails
        return super().forward(torch.stack(list(inputs)))


def test_no_prediction_is_flipped_back():
    samples = [DataSample(metainfo=dict(flip=flip)) for flip in (True, False)]
    recalibrate(Unflipping(), [dict(inputs=[torch.rand(3, 4, 4)] * 2, data_samples=samples)])
    assert samples[0].flip  # the batch is left as it was


def crops(*shapes):
    return dict(
        inputs=[torch.rand(3, *shape) * 255 for shape in shapes],
        data_samples=[
            SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *shape, dtype=torch.long)))
            for shape in shapes
        ],
    )


def test_unequal_crops_are_padded_as_in_training():
    model, batch = Net(), crops((6, 8), (8, 5))
    model.data_preprocessor = SegDataPreProcessor(size=(8, 8), pad_val=7)
    recalibrate(model, [batch])
    padded = torch.full((2, 3, 8, 8), 7.0)
    padded[0, :, :6], padded[1, :, :, :5] = batch['inputs'][0], batch['inputs'][1]
    with torch.no_grad():
        expected = model.conv(padded).mean((0, 2, 3))
    torch.testing.assert_close(model.bn.running_mean, expected)
    assert batch['data_samples'][0].gt_sem_seg.shape == (6, 8)  # as it was, for the next subnet


def test_images_are_not_mixed():
    model = Net()
    mixing = dict(augments=dict(type='Mixup', alpha=0.8))
    model.data_preprocessor = ClsDataPreprocessor(
        num_classes=2, to_onehot=True, batch_augments=mixing
    )
    samples = [DataSample().set_gt_label(k) for k in range(2)]
    images = torch.rand(2, 3, 4, 4)
    recalibrate(model, [dict(inputs=images, data_samples=samples)])
    with torch.no_grad():
        var = model.conv(images).var((0, 2, 3))
    torch.testing.assert_close(model.bn.running_var, var)
    assert model.data_preprocessor.batch_augments is not None


def test_nothing_to_recalibrate_and_no_batches():
    model = Net()
    model.bn = nn.Identity()
    recalibrate(model, [dict(inputs=torch.randn(1, 3, 2, 2))])
    with pytest.raises(ValueError, match='at least one batch'):
        recalibrate(model, [])


def test_what_no_image_reaches_keeps_its_statistics():
    model = Net()
    model.other = nn.BatchNorm2d(2)
    model.other.running_mean.fill_(5)
    model.other.num_batches_tracked.fill_(7)
    recalibrate(model, [dict(inputs=torch.randn(8, 3, 4, 4))])
    assert model.other.running_mean.tolist() == [5, 5]
    assert model.other.num_batches_tracked == 7 and model.bn.num_batches_tracked == 1


def test_auxiliary_heads_of_a_segmentor_are_recalibrated():
    fcn = dict(type='FCNHead', num_convs=1, concat_input=False, num_classes=2, channels=4)
    norm = dict(type='BN')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
                backbone=dict(
                    type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_cfg=norm
                ),
                decode_head=dict(fcn, in_channels=32, in_index=3, norm_cfg=norm),
                auxiliary_head=dict(fcn, in_channels=16, in_index=2, norm_cfg=norm),
                test_cfg=dict(mode='whole'),
            )
        )
    batch = crops((32, 32), (32, 32))
    recalibrate(model, [batch])
    layer, seen = model.auxiliary_head.convs[0], []
    model.eval()
    layer.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        for module in model.backbone.modules():
            module.training = isinstance(module, nn.BatchNorm2d)  # by the batch, as above
        images = model.data_preprocessor(batch, True)['inputs']
        model.auxiliary_head(model.extract_feat(images))
    torch.testing.assert_close(layer.bn.running_mean, seen[0].mean((0, 2, 3)))
