import torch
import torchvision
from command_line import QUICK, run
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmpse.registry import MODELS


def test_public_checkpoint_becomes_a_sorted_supernet(tmp_path):
    public, out = tmp_path / 'mobilenet_v2.pth', tmp_path / 'supernet.pth'
    torch.save(torchvision.models.mobilenet_v2().state_dict(), public)
    command = ('tools/model_converters/public_to_supernet.py',)
    config = QUICK / 'search_mobilenet-v2_digits.py'
    run(*command, config, public, out, '--sort', 'l1', '--backbone-only')
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(out, weights_only=True)['state_dict'])
    norms = model.backbone.conv2.conv.weight.flatten(1).norm(1, dim=1)
    assert torch.all(norms[1:] <= norms[:-1] * (1 + 1e-6))
