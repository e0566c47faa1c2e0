import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn

from mmpse.evaluation import recalibrate


class Net(BaseModel):
    def __init__(self):
        super().__init__(BaseDataPreprocessor())
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4, momentum=0.3)
        self.drop = nn.Dropout(0.9)

    def forward(self, inputs, mode='tensor'):
        return self.bn(self.drop(self.conv(inputs)))


def test_statistics_are_the_mean_over_the_batches():
    model = Net()
    batches = [dict(inputs=torch.randn(8, 3, 4, 4)) for _ in range(3)]
    model.bn.running_mean.fill_(99)
    assert recalibrate(model, batches) == 1
    with torch.no_grad():
        outputs = [model.conv(b['inputs']) for b in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    var = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    assert torch.allclose(model.bn.running_mean, mean, atol=1e-6)
    assert torch.allclose(model.bn.running_var, var, atol=1e-5)
    assert model.bn.momentum == 0.3 and model.training
    assert model.conv.weight.grad is None


def test_nothing_to_recalibrate_and_no_batches():
    model = Net()
    model.bn = nn.Identity()
    assert recalibrate(model, [dict(inputs=torch.randn(1, 3, 2, 2))]) == 0
    with pytest.raises(ValueError, match='at least one batch'):
        recalibrate(model, [])
