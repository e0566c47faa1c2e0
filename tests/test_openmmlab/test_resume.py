import pytest
from conftest import ROOT
from mmengine.config import Config

from mmpse.openmmlab.search.loops import EvolutionSearchLoop
from mmpse.openmmlab.search.resume import resume_latest


@pytest.mark.parametrize('load_from', [None, 'supernet.pth'])
def test_training_goes_on_from_its_own_latest_checkpoint(supernet_cfg, tmp_path, load_from):
    supernet_cfg.update(work_dir=str(tmp_path), load_from=load_from)
    resume_latest(supernet_cfg)
    assert not supernet_cfg.resume and supernet_cfg.load_from == load_from  # there is none yet
    latest = tmp_path / 'epoch_3.pth'
    latest.touch()
    (tmp_path / 'last_checkpoint').write_text(str(latest))
    resume_latest(supernet_cfg)
    assert supernet_cfg.resume and supernet_cfg.load_from == str(latest)


def test_error_where_the_latest_checkpoint_is_missing(supernet_cfg, tmp_path):
    supernet_cfg.work_dir = str(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    with pytest.raises(FileNotFoundError, match='last_checkpoint names epoch_3.pth, which is'):
        resume_latest(supernet_cfg)


@pytest.mark.parametrize('loop', ['mmpse.EvolutionSearchLoop', EvolutionSearchLoop])
def test_search_goes_on_from_its_archive_with_the_supernet(tmp_path, loop):
    cfg = Config.fromfile(ROOT / 'configs/quickstart/search_mobilenet-v2_digits.py')
    cfg.work_dir, cfg.train_cfg.type, load_from = str(tmp_path), loop, cfg.load_from
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    resume_latest(cfg)
    assert cfg.resume and cfg.load_from == load_from
