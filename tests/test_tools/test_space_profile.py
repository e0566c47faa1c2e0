"""tools/analysis_tools/space_profile.py as a user starts it."""

import json

from conftest import ROOT
from mmengine.config import Config
from test_command_lines import run

from mmpse.models import SlimmableResNet, measure

TOOL = 'tools/analysis_tools/space_profile.py'
SEARCH = ROOT / 'configs/quickstart/search_resnet18_digits.py'


def test_profile_says_what_the_space_holds(tmp_path, scope):
    config = tmp_path / 'config.py'
    frozen = dict(grids={'layer4*': dict(ratios=[1.0])})
    config.write_text(f'_base_ = {str(SEARCH)!r}\nmodel = dict(backbone={frozen})\n')
    shape = (3, 32, 32)
    arguments = [TOOL, config, '--input-shape', *shape, '--json', tmp_path / 'profile.json']
    shown = run(*arguments, '--latency', '--budget', 'flops=80%', 'params=95%').stdout
    assert 'the budget can be met' in shown and 'not pruned' in shown
    profile = json.loads((tmp_path / 'profile.json').read_text())
    model = Config.fromfile(config).model.to_dict()
    backbone = {k: v for k, v in model['backbone'].items() if k != 'type'}
    space = SlimmableResNet(**backbone).search_space
    assert profile['units'] == {unit.name: list(unit.candidates) for unit in space.units}
    assert profile['subnets'] == space.size
    milliseconds = [resources.pop('latency_ms') for resources in profile['resources'].values()]
    assert len(milliseconds) == 3 and min(milliseconds) > 0
    assert profile['resources']['smallest'] == measure(model, space.tinynet, shape)
    assert profile['resources']['largest'] == measure(model, space.fullnet, shape)
    low, middle, high = (
        profile['resources'][k]['flops'] for k in ('smallest', 'median', 'largest')
    )
    assert low < middle < high
    assert profile['budget']['found'] > 50 and profile['budget']['share_of_uniform_draws'] > 0


def test_budget_that_cannot_be_met():
    arguments = ['--input-shape', 3, 32, 32, '--budget', 'flops=900M']
    result = run(TOOL, SEARCH, *arguments, expect=1)
    assert 'the budget cannot be met' in result.stderr and 'reaches from' in result.stderr
