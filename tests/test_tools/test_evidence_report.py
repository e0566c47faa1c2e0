"""docs/results.md as it follows from the records."""

import json
import shutil

import pytest
from conftest import ROOT
from evidence import page_of, tools, write  # noqa: F401  a fixture


def test_page_follows_the_records(tmp_path):
    folder = tmp_path / 'results/ranking/net-tiny'

    def supernet(way, scores, seconds=60):
        name = f'supernet_{way}_{seconds}s_seed0'
        figures = dict(seconds_allowed=seconds, steps=7, scores=scores)
        write(folder, name, kind='supernet', way=way, **figures)

    accuracies = [50.0, 60.0, 55.0, 70.0, 65.0]
    for k, accuracy in enumerate(accuracies):
        figures = dict(subnet=k, steps=9, test=accuracy, held_out=accuracy)
        write(folder, f'alone_{k:02}_seed0', kind='alone', **figures)
    subnets = [dict(resources=dict(flops=k * 10**6)) for k in range(1, 6)]
    (folder / 'subnets.json').write_text(json.dumps(subnets))
    supernet('spos', [1, 2, 3, 4, 5])
    supernet('parallel-sliced', [10, 30, 20, 50, 40])
    supernet('n=8', [1, 2, 3, 4, 5])
    supernet('parallel-sliced', [1, 2, 3, 4, 5], seconds=240)  # the parts are compared at 60 s
    (folder / 'ranking_60s.md').write_text('What a person has to say.\n')
    page = page_of(tmp_path / 'results')
    # of ten pairs FLOPs, and SPOS with them, order two otherwise than the accuracies do
    assert '| FLOPs alone | 0.600 |' in page and '| single path (SPOS) | 0.600 |' in page
    assert '| parallel (PSE-Net), sliced | 1.000 | 1.000 | 0.00 |' in page
    under = page.partition('| parallel (PSE-Net), sliced | 1.000')[2].splitlines()
    assert under[0].endswith('| 1.00 | 1 |')  # as they follow the accuracies, beside FLOPs too
    first = next(line for line in under if line.startswith('**'))
    assert first == (
        '**The best of ours, parallel (PSE-Net), sliced (τ 1.000), ranks better than FLOPs alone '
        '(0.600), better than the best rival, single path (SPOS) (0.600), and reaches the goal of '
        '0.75.**'
    )
    section = page.partition('## 3. What each part brings')[2].partition('## 4.')[0]
    assert '#### Supernets trained for 60 s' in section and 'for 240 s' not in section
    assert '| parallel (PSE-Net), sliced, n=4 | 7 | 1.000 |' in section
    assert '| n=8 | 7 | 0.600 | 5.0 | 3.0 | 1 |' in section
    assert 'What a person has to say.' in page and 'Not run: parallel (PSE-Net), masked' in page


@pytest.mark.parametrize(
    'taus, text',
    [
        (dict(sandwich=0.7), ''),
        (
            {'stage-wise': 0.7},
            'stage-wise (SP) (τ 0.700), ranks better than FLOPs alone (0.600), and misses the goal '
            'of 0.75',
        ),
        (
            {'parallel-sliced': 0.8, 'stage-wise': 0.65, 'parallel-masked': 0.55}
            | {'spos': 0.4, 'sandwich': 0.65},
            'parallel (PSE-Net), sliced (τ 0.800), ranks better than FLOPs alone (0.600), better '
            'than the best rival, sandwich (AutoSlim) (0.650), and reaches the goal of 0.75. '
            'Others of ours rank no better than this rival: parallel (PSE-Net), masked; '
            'stage-wise (SP)',
        ),
        (
            {'parallel-sliced': 0.5, 'stage-wise': 0.4, 'spos': 0.5},
            'parallel (PSE-Net), sliced (τ 0.500), ranks no better than FLOPs alone (0.600), no '
            'better than the best rival, single path (SPOS) (0.500), and misses the goal of 0.75',
        ),
    ],
    ids=['none of ours', 'no rival', 'ours wins', 'ours level'],
)
def test_page_words_of_ranking(taus, text):
    from report_ranking import NAMES, verdict

    figures = {NAMES[way]: value for way, value in taus.items()} | {'FLOPs alone': 0.6}
    figures = {
        name: [dict(kendall_tau=value + k / 10) for k in (-1, 1)] for name, value in figures.items()
    }
    assert verdict(figures) == (text and f'\n**The best of ours, {text}.**\n')


def test_page_says_who_wins_at_equal_flops(tmp_path):
    folder = tmp_path / 'results/equal_flops/resnet20_b64-small'

    def result(method, test, seed=0, **variant):
        flags = dict(dict(warm=False), **variant)  # older records say nothing of free
        write(
            folder,
            f'result_{method}_50_{"_".join(variant)}_seed{seed}',
            **dict(kind='result', method=method, budget='50%', flops=2_000_000, steps=7, **flags),
            **dict(supernet_seconds=100, search_seconds=50, seconds_allowed=300),
            **dict(held_out=test - 1, test=test, seed=seed),
        )

    result('uniform', 60.0)
    result('uniform', 62.0, seed=1)
    result('evolution', 58.0)
    result('evolution', 64.0, warm=True)
    page = page_of(tmp_path / 'results')
    assert (
        '| uniform pruning | 2.00 ± 0.00 | 61.00 ± 1.41 | +0.00 ± 0.00 | 60.00 ± 1.41 | 2 | 100 |'
    ) in page
    assert '| evolution from the prior (PSE-Net) | 2.00 | 58.00 | -2.00 | 57.00 | 1 |' in page
    table, _, under = page.partition('#### At 50% of the FLOPs')[2].partition('**')
    assert table.rstrip().endswith('|')  # the verdict is the first line under the table
    assert under.partition('**')[0] == (
        "evolution from the prior (PSE-Net), from the supernet's weights (+4.00 points) wins, one "
        'of ours; the best rival is uniform pruning.'
    )
    assert 'Not run: random search (parallel supernet), greedy' in page
    assert 'retrained for the whole time' not in page
    result('evolution', 65.0, warm=False, free=True)
    page = page_of(tmp_path / 'results')
    free = page.partition('FLOPs, retrained for the whole time')[2].partition('.**')[0]
    assert '61.00 ± 1.41' in free and '| 64.00 | 63.00 |' not in free
    assert free.endswith(
        'evolution from the prior (PSE-Net) (+5.00 points) wins, one of ours; the best rival is '
        'uniform pruning'
    )
    assert 'Not run: `python tools/evidence/equal_flops.py --data-root DATA --network mob' in page


@pytest.mark.parametrize(
    'tests, text',
    [
        (dict(uniform=60.0), ''),
        ({'evolution': 60.0, 'stage-wise': 61.0}, ''),
        (
            dict(uniform=60.0, random=61.0),
            'random search (parallel supernet) (+1.00 points) wins.',
        ),
        (
            {'uniform': 62.0, 'torch-pruning': 60.0, 'evolution': 58.0, 'stage-wise': 59.5},
            'uniform pruning wins; the best of ours is stage-wise search (SP) (-2.50 points), '
            'which also loses to Torch-Pruning, fine-tuned.',
        ),
        (
            {'uniform': 62.0, 'random': 60.0, 'greedy': 61.0, 'torch-pruning': 59.0}
            | {'stage-wise': 60.0},
            'uniform pruning wins; the best of ours is stage-wise search (SP) (-2.00 points), '
            'which also loses to random search (parallel supernet); greedy slimming (AutoSlim).',
        ),
        (
            {'uniform': 62.0, 'torch-pruning': 60.0, 'evolution': 61.0},
            'uniform pruning wins; the best of ours is evolution from the prior (PSE-Net) (-1.00 '
            'points).',
        ),
        (
            {'uniform': 62.0, 'torch-pruning': 63.0, 'evolution': 58.0, 'stage-wise': 63.5},
            'stage-wise search (SP) (+1.50 points) wins, one of ours; the best rival is '
            'Torch-Pruning, fine-tuned (+1.00 points).',
        ),
    ],
    ids=['one', 'no uniform', 'rivals alone', 'third', 'level', 'second', 'ours wins'],
)
def test_page_words_of_accuracies(tests, text):
    from report_equal_flops import METHODS, verdict_of_results

    results = {
        METHODS[m]: [dict(seed=k, test=tests[m] + k) for k in (-1, 1)]
        for m in METHODS
        if m in tests
    }
    assert verdict_of_results(results) == (text and f'\n**{text}**\n')


def test_page_compares_with_uniform_of_the_same_seed():
    from report_equal_flops import METHODS, verdict_of_results

    of_seeds = dict(uniform={0: 70.0, 1: 60.0}, evolution={0: 69.0}, random={1: 58.0, 2: 90.0})
    results = {
        METHODS[m]: [dict(seed=seed, test=test) for seed, test in tests.items()]
        for m, tests in of_seeds.items()
    }
    assert verdict_of_results(results) == (
        '\n**uniform pruning wins; the best of ours is evolution from the prior (PSE-Net) (-1.00 '
        'points).**\n'
    )


def test_page_compares_samplers_and_recalibration(tmp_path):
    subnets = [dict(resources=dict(flops=k * 10**6)) for k in range(1, 5)]
    ranked = tmp_path / 'results/ranking/net-tiny'
    for k in range(4):
        figures = dict(subnet=k, steps=9, test=50.0 + k, held_out=50.0)
        write(ranked, f'alone_{k:02}_seed0', kind='alone', **figures)
    (ranked / 'subnets.json').write_text(json.dumps(subnets))
    scores = {'0': [10.0, 10.0, 10.0, 10.0], '8': [20.0, 30.0, 40.0, 50.0]}
    figures = dict(seconds_allowed=60, batch_size=64, steps=7, scores_of_batches=scores)
    write(ranked, 'recalibration_60s_seed0', kind='recalibration', **figures)
    searched = tmp_path / 'results/equal_flops/net-tiny'
    bests = {'random': 40.0, 'random-cost': 42.0, 'random-loss': 39.0, 'random-prior': 41.0}
    for method, best in bests.items():
        figures = dict(scores=[best, best - 10], judged=2, trials=10, accepted=4, budget='25%')
        write(
            searched, f'search_{method}_seed0', kind='search', method=method, score=best, **figures
        )
    page = page_of(tmp_path / 'results')
    assert '| 0 | – | 10.0 | 10.0 | 1 |' in page and '| 8 | 1.000 | 50.0 | 35.0 | 1 |' in page
    assert '| prior: loss and cost | 2.5 | 41.00 | 36.00 | 1 |' in page
    assert (
        '**The prior of loss and cost (41.00) finds nothing better than cost alone (42.00).**'
    ) in page


def test_tables_of_benchmarks_are_copied_into_the_page(tmp_path, monkeypatch):
    import cost

    command = ['tools/benchmarks/sampling.py', '--widen-factor', '0.5', '--size', '64']
    command += ['--budgets', '50%', '--max-trials', '3000']
    monkeypatch.setitem(cost.BENCHMARKS, 'sampling', command)
    place = ['--out', str(tmp_path / 'results/cost'), '--work-dir', str(tmp_path / 'work')]
    cost.main(['--only', 'sampling', *place])
    record = json.loads((tmp_path / 'results/cost/sampling.json').read_text())
    assert record['command'] == 'python tools/evidence/cost.py --only sampling'
    page = page_of(tmp_path / 'results')
    assert len(record['rows']) == 4  # samplers
    for row in record['rows']:
        if row['seconds_per_1000'] is None:  # uniform draws found none
            continue
        assert f'| {row["sampler"]} | ' in page and f'| {row["seconds_per_1000"]:.3g} |' in page


def test_the_page_in_the_repository_is_that_of_its_records(tmp_path):
    shutil.copytree(ROOT / 'docs/results', tmp_path / 'results')
    assert page_of(tmp_path / 'results') == (ROOT / 'docs/results.md').read_text()
