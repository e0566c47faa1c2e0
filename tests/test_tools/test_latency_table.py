import json

from command_line import QUICK, run


def test_latency_table_is_built_once_and_checked(tmp_path):
    out = tmp_path / 'table.json'
    command = ['tools/latency_table.py', QUICK / 'search_mobilenet-v2_digits.py', '-o', out]
    command += ['--input-shape', 3, 32, 32, '--points', 2, '--rounds', 1, '--check', 2]
    assert 'relative error over 2 subnets: median' in run(*command).stdout
    layers = json.loads(out.read_text())['layers']
    run(*command)
    assert json.loads(out.read_text())['layers'] == layers
