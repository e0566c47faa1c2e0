"""docs/results.md as it follows from the records."""

import json
import shutil

from conftest import ROOT
from evidence import page_of, tools, write  # noqa: F401  a fixture
from PIL import Image

NAME = 'retinanet-r18_bccd'


def whole(folder, budget, how, seed, flops, test, **figures):
    """A record of whole.py, with the widths."""
    name = f'{NAME}_{budget.rstrip("%")}_{how}_{seed}'
    figures = dict(name=NAME, budget=budget, how=how, flops=flops, test=test, **figures)
    write(folder, name, seed=seed, **figures)
    (folder / 'subnets').mkdir(exist_ok=True)
    units = {'backbone.conv1': 32, 'neck.conv': 64}
    subnet = dict(backbone=dict(units=units), widths={unit: 8 for unit in units})
    (folder / f'subnets/{name}.json').write_text(json.dumps(subnet))


def test_whole_models_come_first(tmp_path):
    folder = tmp_path / 'docs/results/whole'
    stages = dict(before=dict(latency_ms=10.0), after=dict(latency_ms=4.0))
    whole(folder, '100%', 'trained', 0, 1.0, 0.5)
    for seed, test in enumerate((0.30, 0.32)):
        whole(folder, '10%', 'uniform', seed, 0.09, test, val=0.4, report=stages)
    whole(folder, '10%', 'sensitivity', 0, 0.1, 0.4)
    whole(folder, '10%', 'torch-pruning-taylor', 0, 0.1, 0.2)
    whole(folder, 'latency 50%', 'uniform', 0, 0.3, 0.45)
    (folder / 'account.md').write_text('What a person has to say.\n')
    page = page_of(tmp_path / 'docs/results')
    first, _, behind = page.partition('What a person has to say.')
    title = 'RetinaNet R-18 on BCCD, box mAP'
    assert '|  | `uniform` |  | 31.0 ± 1.4 (2) | 45.0 |' in first and '50 % of the latency' in first
    assert f'| {title} | as it was trained | 50.0 |  |  |' in first and 'Taylor' not in first
    assert '| 10 % of FLOPs | `uniform` | 9.0 % | 30.0 32.0 | 40.0 40.0 | 0.40 | 2 |' in behind
    assert '| 10 % of FLOPs | Torch-Pruning, Taylor | 10.0 % | 20.0 |' in behind
    assert '| 50 % of the latency | `uniform` | 30.0 % | 45.0 |' in behind
    assert 'Not run: `python tools/evidence/whole.py semantic-fpn-r18_camvid`' in behind
    width, height = Image.open(tmp_path / f'docs/images/{NAME}.png').size
    assert width > height > 300


def test_the_readme_has_the_table_and_the_rest_of_it_stays(tmp_path):
    from report import BEGIN, END

    whole(tmp_path / 'docs/results/whole', '100%', 'trained', 0, 1.0, 0.5)
    readme = tmp_path / 'README.md'
    readme.write_text(f'# above\n\n{BEGIN}old\n{END}\nbelow\n')
    for _ in range(2):
        page_of(tmp_path / 'docs/results')
    table = '\n| widths | 100 % of FLOPs |\n| --- | ---: |\n| as it was trained | 50.0 |\n'
    assert readme.read_text() == f'# above\n\n{BEGIN}{table}{END}\nbelow\n'


def test_what_a_resumed_run_comes_to(tmp_path):
    folder = tmp_path / 'docs/results'
    row = dict(killed='early', weights=True, subnet=True, sensitivity=True, report=False)
    write(folder, 'resumed', rows=[row, dict(killed='late', came=True, status=1)])
    page = page_of(folder)
    assert '| early | the same | the same | the same | another |' in page
    assert '| late | another | another | another | another |' in page


def test_rankings_follow_the_records(tmp_path):
    folder = tmp_path / 'docs/results/ranking/net-tiny'

    def supernet(way, scores):
        figures = dict(kind='supernet', way=way, seconds_allowed=60, steps=7, scores=scores)
        write(folder, f'supernet_{way}_60s_seed0', **figures)

    for k, accuracy in enumerate([50.0, 60.0, 55.0, 70.0, 65.0]):
        figures = dict(subnet=k, steps=9, test=accuracy, held_out=accuracy)
        write(folder, f'alone_{k:02}_seed0', kind='alone', **figures)
    subnets = [dict(resources=dict(flops=k * 10**6)) for k in range(1, 6)]
    (folder / 'subnets.json').write_text(json.dumps(subnets))
    supernet('spos', [1, 2, 3, 4, 5])
    supernet('parallel-sliced', [10, 30, 20, 50, 40])
    supernet('n=8', [1, 2, 3, 4, 5])  # a setting that is tried, no way
    (folder / 'notes.md').write_text('What a person has to say.\n')
    page = page_of(tmp_path / 'docs/results')
    # of ten pairs FLOPs, and SPOS with them, order two otherwise than the accuracies do
    assert '| FLOPs alone | 0.60 |' in page and '| single path (SPOS) | 0.60 |' in page
    ours = page.partition('| parallel (PSE-Net), sliced | ')[2].splitlines()[0]
    # as they follow the accuracies, beside FLOPs too
    assert ours.startswith('1.00 | ') and ours.endswith(' | 1.00 | 30.0 | 1 |')
    assert 'n=8' not in page.partition('## 3.')[0] and 'What a person has to say.' in page


def test_costs_follow_the_records(tmp_path):
    shutil.copytree(ROOT / 'docs/results/cost', tmp_path / 'docs/results/cost')
    page = page_of(tmp_path / 'docs/results').partition('## 3.')[2]
    record = json.loads((ROOT / 'docs/results/cost/train_step_ResNet-50_float32.json').read_text())
    of_layout = {(r['mode'], r['n']): r for r in record['rows'] if r['layout'] == 'NCHW'}
    row = next(line for line in page.splitlines() if line.startswith('| ResNet-50, float32 | NCHW'))
    assert f'| {of_layout["plain", 1]["seconds"]:.2f} |' in row
    assert f'| {of_layout["sliced", 4]["ratio"]:.2f} |' in row


def test_the_page_in_the_repository_is_that_of_its_records(tmp_path):
    shutil.copytree(ROOT / 'docs/results', tmp_path / 'docs/results')
    shutil.copy(ROOT / 'README.md', tmp_path)
    assert page_of(tmp_path / 'docs/results') == (ROOT / 'docs/results.md').read_text()
    assert (tmp_path / 'README.md').read_text() == (ROOT / 'README.md').read_text()
