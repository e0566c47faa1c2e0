"""A search takes the config of a training as it is."""

from pathlib import Path

from mmengine.runner import Runner


def test_schedules_that_need_more_epochs_do_not_matter(small_search):
    small_search.train_cfg.update(population=3, generations=1)
    small_search.param_scheduler = [
        dict(type='CosineAnnealingLR', begin=2, end=16, convert_to_iter_based=True),
        dict(type='MultiStepLR', by_epoch=True, begin=16, end=12, milestones=[30]),
    ]
    Runner.from_cfg(small_search).train()
    assert Path(small_search.work_dir, 'best_subnet.json').is_file()
