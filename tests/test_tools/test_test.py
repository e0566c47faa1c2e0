from command_line import QUICK, run


def test_missing_checkpoint_is_named():
    result = run('tools/test.py', QUICK / 'retrain_mobilenet-v2_digits.py', 'no.pth', expect=1)
    assert 'no checkpoint at no.pth; train one with tools/train.py' in result.stderr
