import sys

from conftest import ROOT
from mmengine.config import Config


def test_demo_commands_are_ones_a_user_can_copy():
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        import demo
    finally:
        sys.path.pop(0)
    jobs = dict(demo.steps(ROOT / 'work', seed=3))
    assert len(jobs) == 1 + 3 + 9
    for command in jobs.values():
        assert command[:2] == ['-m', 'mmpse'] or (ROOT / command[0]).is_file()
        for part in command[1:]:
            assert not part.startswith('configs/') or (ROOT / part).is_file()
    trained = {part for command in jobs.values() for part in command if part.endswith('.pth')}
    for path in trained:  # what a step reads, an earlier one writes as its last checkpoint
        name, checkpoint = path.rpartition('=')[2].split('/')[-2:]
        config = Config.fromfile(ROOT / jobs[name][1])
        assert checkpoint == f'epoch_{config.train_cfg.max_epochs}.pth'
