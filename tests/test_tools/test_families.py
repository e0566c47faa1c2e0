"""Every family trains as a supernet and is searched on the digits, as a user would do it."""

import pytest
import torch
from command_line import run
from conftest import ROOT

from mmpse.openmmlab.checkpoints.supernet import supernet_state
from mmpse.search.archive import read_archive
from mmpse.space import Subnet


@pytest.mark.slow
@pytest.mark.parametrize('family', ['mobilenet-v2', 'resnet18', 'resnet20', 'vgg11bn'])
def test_one_supernet_epoch_and_a_search_of_30(family, digits, tmp_path):
    supernet, search = (
        ROOT / f'configs/quickstart/{step}_{family}_digits.py' for step in ('supernet', 'search')
    )
    data = [f'{split}_dataloader.dataset.data_root={digits}' for split in ('train', 'val')]
    command = ['tools/train.py', supernet, '--work-dir', tmp_path / 'supernet', '--cfg-options']
    run(*command, data[0], 'train_cfg.max_epochs=1', 'param_scheduler=None')
    checkpoint = tmp_path / 'supernet/epoch_1.pth'
    record = supernet_state(torch.load(checkpoint, weights_only=False))['record']
    assert len(record['loss']) == 2 * 8 and all(torch.isfinite(record['loss']))

    command = ['tools/train.py', search, '--work-dir', tmp_path / 'search', '--cfg-options']
    sizes = ['train_cfg.population=10', 'train_cfg.mutants=5', 'train_cfg.generations=3']
    run(*command, *data, f'load_from={checkpoint}', *sizes)
    fullnet, *judged = read_archive(tmp_path / 'search/archive.db')
    assert fullnet.origin == 'fullnet' and len({subnet.widths for subnet in judged}) == 31
    best = Subnet.load(tmp_path / 'search/best_subnet.json')
    assert best.source['score'] == max(subnet.score for subnet in judged)
    assert best.resources['flops'] <= fullnet.resources['flops'] / 2
