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
    figures = dict(name=NAME, metric='coco/bbox_mAP', budget=budget, how=how, **figures)
    figures.update(flops=flops, epochs=8, test=test)
    write(folder, name, seed=seed, **figures)
    (folder / 'subnets').mkdir(exist_ok=True)
    units = {'backbone.conv1': 32, 'neck.conv': 64}
    subnet = dict(backbone=dict(units=units), widths={unit: 8 for unit in units})
    (folder / f'subnets/{name}.json').write_text(json.dumps(subnet))


def test_whole_models_come_first(tmp_path):
    folder = tmp_path / 'docs/results/whole'
    stages = dict(before=dict(latency_ms=10.0), after=dict(latency_ms=4.0))
    stages['cut'] = {'coco/bbox_mAP': 0.2}
    whole(folder, '100%', 'trained', 0, 1.0, 0.5)
    for seed, test in enumerate((0.30, 0.32)):
        whole(folder, '10%', 'uniform', seed, 0.09, test, val=0.4, report=stages)
    for seed, test in enumerate((0.32, 0.34)):
        whole(folder, '10%', 'sensitivity', seed, 0.1, test)
    taken = dict(evaluation=2, sorting=1, sensitivity=3, exploring=8, choice=1, report=5)
    whole(folder, '10%', 'search', 0, 0.1, 0.5, steps=taken)
    whole(folder, '10%', 'torch-pruning-taylor', 0, 0.1, 0.2)
    whole(folder, 'latency 50%', 'uniform', 0, 0.3, 0.45)
    (folder / 'account.md').write_text('What a person has to say.\n')
    page = page_of(tmp_path / 'docs/results')
    first, _, behind = page.partition('What a person has to say.')
    title = 'RetinaNet R-18 on BCCD, box mAP'
    assert (
        f'| {title} | 10 % of FLOPs | 50.0 |  | **31.0 ± 1.4** |  |  | **33.0 ± 1.4** | 50.0 |'
        in first
    )
    assert '|  | 50 % of the latency |  |  | 45.0 |  |  |  |  |' in first and 'Taylor' not in first
    line = '| `uniform` | 9.0 % | 8 | 30.0 32.0 | 40.0 40.0 | 20.0 20.0 | 0.40 | 2 |'
    assert f'| 10 % of FLOPs {line}' in behind
    assert '| 10 % of FLOPs | Torch-Pruning, Taylor, taught | 10.0 % | 8 | 20.0 |' in behind
    assert '| 50 % of the latency | `uniform` | 30.0 % | 8 | 45.0 |' in behind
    assert '| RetinaNet R-18 on BCCD | `search` | 1 | 60% | 0% | 40% |' in behind
    assert 'Not run: `python tools/evidence/whole.py semantic-fpn-r18_camvid`' in behind
    width, height = Image.open(tmp_path / f'docs/images/{NAME}.png').size
    assert width > height > 300


def test_parts_and_small_models_have_tables_of_their_own(tmp_path):
    folder = tmp_path / 'docs/results/whole'
    stages = dict(before=dict(latency_ms=10.0), after=dict(latency_ms=4.0))
    for how, of_cut, test in (('uniform', 0.2, 0.4), ('uniform-l1', 0.1, 0.3)):
        report = dict(stages, cut={'coco/bbox_mAP': of_cut})
        whole(folder, '10%', how, 0, 0.1, test, val=0.4, report=report)
    steps = {'fine-tuning': 8, 'report': 2}
    whole(folder, '100%', 'unpruned', 0, 1.0, 0.5, steps=steps, cpu_seconds=40)
    whole(folder, '10%', 'sensitivity', 0, 0.1, 0.42, cpu_seconds=20)
    whole(folder, '10%', 'scratch-longer', 0, 0.1, 0.25, cpu_seconds=90)
    page = page_of(tmp_path / 'docs/results')
    title = 'RetinaNet R-18 on BCCD, box mAP, 10 % of FLOPs'
    assert f'| {title} | selection | reconstruction | 20.0 | 40.0 | 1 |' in page
    assert '|  | L1 norm | reconstruction | 10.0 | 30.0 | 1 |' in page
    # 16 epochs of 4 s, and the pruning
    assert f'| {title} | the full model, then pruned by `sensitivity` | 8 | 42.0 | 1 | 84 |' in page
    assert '|  | the small model, from random weights, as long in all | 8 | 25.0 | 1 | 90 |' in page


def test_the_readme_has_a_shorter_table_and_the_rest_of_it_stays(tmp_path):
    """Budgets with several seeds, and the ways that compare there."""
    from report import BEGIN, END

    folder = tmp_path / 'docs/results'
    whole(folder / 'whole', '100%', 'trained', 0, 1.0, 0.5)
    whole(folder / 'whole', '20%', 'uniform', 0, 0.2, 0.3)
    whole(folder / 'whole', '20%', 'search', 0, 0.2, 0.6)
    for seed, test in enumerate((0.30, 0.32)):
        whole(folder / 'whole', '20%', 'sensitivity', seed, 0.2, test)
    whole(folder / 'whole', '50%', 'sensitivity', 0, 0.5, 0.4)
    readme = tmp_path / 'README.md'
    readme.write_text(f'# above\n\n{BEGIN}old\n{END}\nbelow\n')
    for _ in range(2):
        page_of(folder)
    before, text = readme.read_text().split(BEGIN)
    table, after = text.split(END)
    assert before == '# above\n\n' and after == '\nbelow\n'
    (line,) = table.strip().splitlines()[2:]
    title = 'RetinaNet R-18 on BCCD, box mAP'
    assert line == f'| {title} | 20 % of FLOPs | 50.0 |  |  | 30.0 | 31.0 ± 1.4 |'


def test_one_supernet_beside_prunings_without_one(tmp_path):
    folder = tmp_path / 'docs/results'
    for budget, test in (('50%', 0.4), ('10%', 0.2)):
        whole(folder / 'whole', budget, 'sensitivity', 0, 0.5, test, cpu_seconds=30)
    own = dict(judged=3, search_seconds=5, cpu_seconds=20)
    for seed, test in enumerate((0.30, 0.32)):
        rows = [
            dict(own, budget=budget, search='predictor', inherit=inherit, test=test)
            for budget, inherit in (('50%', False), ('10%', False), ('10%', True))
        ]
        about = dict(name=NAME, metric='coco/bbox_mAP', rows=rows, seed=seed)
        write(folder / 'supernets', f'{NAME}_psenet_{seed}', **about, training=dict(cpu_seconds=40))
    page = page_of(folder)
    predictor = 'a predictor, of a supernet of parallel subnets (PSE-Net)'
    assert '| `sensitivity`, no supernet | 40.0 | 20.0 |  | 60 |' in page
    assert f'| {predictor} | 31.0 ± 1.4 | 31.0 ± 1.4 | 6 | 90 |' in page  # 40 + 2 * (5 + 20)
    assert f"| {predictor}; the supernet's weights |  | 31.0 ± 1.4 | 3 | 65 |" in page


def test_the_best_are_those_that_chance_does_not_tell_apart():
    from report_whole import best

    assert best([[40, 42], [50, 51], [51, 52], [60]]) == [1, 2]  # of one seed nothing is known
    assert best([[40, 40.1], [50, 50.1], [], []]) == [1]
    assert best([[40, 41], [50], [], []]) == []  # nothing to compare with


def test_files_stand_beside_those_of_the_full_model(tmp_path):
    runtimes = 'torch', 'onnxruntime', 'openvino', 'int8'
    models = {
        name: dict(metric=dict.fromkeys(runtimes, metric), ms=dict.fromkeys(runtimes, time))
        for name, metric, time in (('full', 0.5, 8.0), ('pruned', 0.4, 2.0))
    }
    folder = tmp_path / 'docs/results'
    for budget in ('10', '50', 'latency-50'):
        write(folder / 'deployed', f'{NAME}_{budget}', **models)
    page = page_of(folder).partition('Where they run')[2]
    lines = [line for line in page.splitlines() if ' ms |' in line or '0.25' in line]
    budgets = [line.split(' | ')[1] for line in lines]
    assert budgets == ['full', '50 % of FLOPs', '10 % of FLOPs', '50 % of the latency']
    assert '| 50.0, 8.0 ms |' in lines[0] and '| 40.0, 0.25 |' in lines[1]


def test_the_predictor_is_compared_with_flops(tmp_path):
    truth = [0.1, 0.3, 0.2, 0.5, 0.4]
    figures = dict(scores=truth, flops=[1, 2, 3, 4, 5], predicted=[-x for x in truth])
    figures.update(losses=[1 - x for x in truth], explored=25, seconds_of_a_candidate=1.5)
    figures['finetuned'] = [5, 4, 3, 2, 1]  # against all that FLOPs say
    write(tmp_path / 'docs/results/predictor', 'x', name=NAME, budget='50%', **figures)
    page = page_of(tmp_path / 'docs/results')
    row = page.partition('| RetinaNet R-18 on BCCD | 50 % | as cut | 25 | ')[2].splitlines()[0]
    # of ten pairs FLOPs order two otherwise, and the predictor none
    ours, loss, flops, ahead, seconds = row.split(' | ')
    assert ours == '1.00 ± 0.00' and flops.startswith('0.60 ± ') and ahead.startswith('0.40 ± ')
    assert (loss, seconds) == ('1.00 ± 0.00', '1.5 |')
    row = page.partition('|  |  | fine-tuned | 25 | ')[2].splitlines()[0]
    assert row.split(' | ')[2] == '-1.00 ± 0.00'


def test_what_a_resumed_run_comes_to(tmp_path):
    folder = tmp_path / 'docs/results'
    row = dict(killed='early', weights=True, subnet=True, sensitivity=True, report=False)
    write(folder, 'resumed', rows=[row, dict(killed='late', came=True, status=1)])
    page = page_of(folder)
    assert '| early | the same | the same | the same | another |' in page
    assert '| late | another | another | another | another |' in page


def test_searches_of_a_table_show_gains_and_how_often_they_lose(tmp_path):
    folder = tmp_path / 'docs/results'
    rows = [
        dict(search=search, width=0.5, noise=noise, gain=gain / noise, error=0.01, worse=0.25)
        for search, gain in dict(random=-0.1, evolution=0.0, greedy=-0.3, predictor=0.4).items()
        for noise in (1.0, 2.0)
    ]
    budgets = [dict(width=0.5, networks=441, oracle=0.44)]
    write(folder, 'simulation', evaluations=48, repetitions=9, budgets=budgets, rows=rows)
    page = page_of(folder).partition('Searches of a table')[2]
    assert 'of which 441 lie within the budgets' in page and 'gains 0.44 points' in page
    assert '| uniform 0.5x | random | -0.10 ± 0.01, 25% | -0.05 ± 0.01, 25% |' in page
    assert '|  | predictor (`mmpse.PredictorSearchLoop`) | +0.40 ± 0.01, 25% |' in page


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
