"""tools/analysis_tools as a user starts them."""

import json
import re

import pytest
import torch
from command_line import QUICK, run

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.supernet.building import find_supernet, supernet_content
from mmpse.openmmlab.supernet.record import LossRecord
from mmpse.search.archive import Archive, Judged, read_archive, read_chosen, read_identity
from mmpse.space import SearchSpace


@pytest.fixture
def archive(tmp_path):
    """An archive of two searches, and a CSV of its subnets trained on their own."""
    space = SearchSpace(dict(stem=32, body=64, head=128), dict(type='Net'))
    units = [[unit.name, unit.max_width] for unit in space.units]
    archive = Archive(tmp_path / 'work/archive.db', dict(units=units, metric='top1'))
    lines = ['subnet,accuracy']
    cost = dict(flops=10**7, params=10**7)
    reference = Judged(1, 0, 'fullnet', tuple(space.fullnet.values()), 95.0, None, cost)
    for k, ratio in enumerate((0.3, 0.5, 0.7, 0.8, 0.9)):
        subnet = space.subnet(space.uniform(ratio).values(), resources=dict(flops=100 + k))
        number, _ = archive.begin(dict(budget=dict(flops='20%' if k < 3 else '5M')))
        if not k:
            archive.add([reference])
        cost = dict(flops=10**6 * (k + 1), params=10**6)
        score = [50.0, 60.0, 80.0, 70.0, 90.0][k]
        archive.add([Judged(number, 1, 'prior', tuple(subnet.values()), score, None, cost)])
        subnet.save(tmp_path / f'{k}.json')
        lines.append(f'{k}.json,{[71, 72, 75, 74, 73][k]}')
    (tmp_path / 'subnets.csv').write_text('\n'.join(lines) + '\n')
    return archive.path


def test_plot_search_draws_and_compares(archive, tmp_path):
    result = run('tools/analysis_tools/plot_search.py', archive, '--out-dir', tmp_path / 'out')
    files = {path.name for path in (tmp_path / 'out').iterdir()}
    assert files == {'search_progress.png', 'width_profile.png'}
    # the highest score: the third is above the budget of the first search, 2 M of 10 M
    assert re.search('work#1 .*4 .*60.0000', result.stdout)
    assert re.search('work#2 .*2 .*90.0000', result.stdout)
    result = run('tools/analysis_tools/plot_search.py', tmp_path / 'subnets.csv', expect=1)
    assert 'give the archive.db that a search wrote' in result.stderr


def test_plot_search_names_what_a_search_chose(archive, tmp_path):
    """Not the highest score: uniform pruning, or one that an earlier search judged."""
    rows = read_archive(archive)
    written = Archive(archive, read_identity(archive))
    written.choose(1, rows[1].widths)
    written.choose(2, rows[2].widths)
    assert read_chosen(archive) == {1: rows[1].widths, 2: rows[2].widths}
    result = run('tools/analysis_tools/plot_search.py', archive, '--out-dir', tmp_path / 'out')
    assert re.search('work#1 .*4 .*50.0000', result.stdout)
    assert re.search('work#2 .*2 .*60.0000', result.stdout)


def test_plot_losses_draws_the_record_of_a_checkpoint(tmp_path):
    cfg = load_config(QUICK / 'supernet_resnet18_digits.py')
    supernet, _ = find_supernet(build_model(cfg), cfg, {}, (3, 32, 32))
    space = supernet.space
    record = LossRecord(size=10)
    record.extend(0, space.array([space.fullnet, space.tinynet]), [1.0, 2.0])
    state = dict(supernet_content(supernet), record=record.state_dict())
    meta = dict(cfg=cfg.pretty_text, mmpse_supernet=state)
    torch.save(dict(meta=meta, state_dict={}), tmp_path / 'epoch_1.pth')
    shape = '--input-shape', 3, 32, 32
    result = run('tools/analysis_tools/plot_losses.py', tmp_path / 'epoch_1.pth', *shape)
    assert '2 losses drawn' in result.stdout and (tmp_path / 'training_losses.png').stat().st_size
    torch.save(dict(state_dict={}), tmp_path / 'other.pth')
    result = run('tools/analysis_tools/plot_losses.py', tmp_path / 'other.pth', expect=1)
    assert 'other.pth holds no losses of subnets' in result.stderr


def test_ranking_agreement_of_scores_and_of_flops(archive, tmp_path):
    tool, out = 'tools/analysis_tools/ranking_agreement.py', tmp_path / 'agreement.json'
    run(tool, tmp_path / 'subnets.csv', '--archive', archive, '--json', out)
    figures = json.loads(out.read_text())
    # of ten pairs the scores order 8 as the accuracies do, FLOPs 7
    assert figures['supernet']['kendall_tau'] == pytest.approx(0.6)
    assert figures['FLOPs']['kendall_tau'] == pytest.approx(0.4)
    assert figures['supernet']['regret_top1'] == figures['FLOPs']['regret_top1'] == 2
    result = run(tool, tmp_path / 'subnets.csv', expect=1)
    assert "row 1: no score, got {'subnet': '0.json'" in result.stderr
