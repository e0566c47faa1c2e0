"""tools/benchmarks as a user starts them."""

import json

import pytest
from command_line import QUICK, run

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.files import load_config
from mmpse.openmmlab.models.pruned import look
from mmpse.space import SAMPLERS


def test_training_steps_as_ratios(tmp_path):
    out = tmp_path / 'step.json'
    run(
        *('tools/benchmarks/train_step.py', '--networks', 'MobileNetV2-0.5x', '--rounds', 1),
        *('--size', 64, '--batch', 8, '--n', 2, '--dtypes', 'float32'),
        *('--layouts', 'channels_last', '--json', out),
    )
    rows = {(row['mode'], row['n']): row for row in json.loads(out.read_text())}
    assert rows.keys() == {
        *(('plain', 1), ('masked', 2), ('sliced', 2)),
        *(('stage-wise masked', 4), ('stage-wise sliced', 4)),
        *(('sandwich', 4), ('spos', 1)),
    }
    for (mode, n), row in rows.items():
        assert mode != 'plain' or (row['ratio'] == 1 and row['memory_ratio'] == 1)
        images = 8 * (n if mode == 'sandwich' else 2 if 'stage-wise' in mode else 1)
        assert row['subnet_images_per_s'] == pytest.approx(images / row['seconds'])
        # stage by stage, the subnets run beside the full network
        assert 0.3 < row['memory_ratio'] < (2 if 'stage-wise' in mode else 1.2)


def test_latency_as_ratios(tmp_path):
    config, out, half = QUICK / 'detector_digits.py', tmp_path / 'latency.json', tmp_path / 'half'
    layout, _ = look(build_model(load_config(config)))
    layout.space().uniform(0.5).save(half)
    run(
        *('tools/benchmarks/latency.py', config, '--rounds', 2, '--json', out),
        *('--subnets', 'full=None', f'half={half}', '--input-shape', 3, 64, 64),
        *('--runtimes', 'torch', 'onnxruntime'),
    )
    rows = {(row['runtime'], row['name']): row for row in json.loads(out.read_text())}
    assert len(rows) == 4
    for (_, name), row in rows.items():
        assert row['latency_ms'] > 0 and (name != 'full' or row['ratio'] == 1)


def test_draws_that_a_subnet_within_the_budget_takes(tmp_path):
    out = tmp_path / 'sampling.json'
    run(
        *('tools/benchmarks/sampling.py', '--widen-factor', 0.5, '--size', 64, '--json', out),
        *('--budgets', '50%', '95%', '--max-trials', 3000),
    )
    rows = {(row['sampler'], row['budget']): row for row in json.loads(out.read_text())}
    assert rows.keys() == {(s, b) for s in SAMPLERS for b in ('50%', '95%')}
    assert rows['uniform', '95%']['trials_per_valid'] is None
    for sampler in ('prior', 'cost'):
        for budget in ('50%', '95%'):
            assert rows[sampler, budget]['trials_per_valid'] < 2
            assert rows[sampler, budget]['seconds_per_1000'] > 0


def test_benchmark_of_judging_adds_up(tmp_path):
    out = tmp_path / 'judge.json'
    run(
        *('tools/benchmarks/judge.py', '--networks', 'MobileNetV2', '--size', 32, '--images', 8),
        *('--batch', 4, '--calibration', 1, '--rounds', 1, '--json', out),
    )
    (row,) = json.loads(out.read_text())
    parts = ('slicing', 'recalibration', 'folding', 'evaluation')
    shares = [row[f'{part}_share'] for part in parts]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0
    assert row['ratio'] == pytest.approx(row['candidate_s'] / row['plain_s'])
    assert 0.3 < row['flops_share'] < 0.7
