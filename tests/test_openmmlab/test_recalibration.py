import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import PixelData
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from mmpse.openmmlab.models.recalibration import recalibrate


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
