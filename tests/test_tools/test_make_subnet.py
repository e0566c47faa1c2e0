from command_line import QUICK, run
from mmengine.config import Config

from mmpse.models import SlimmableMobileNetV2, measure, model_costs
from mmpse.space import Subnet


def test_make_subnet_writes_a_uniform_subnet(tmp_path, scope):
    out = tmp_path / 'half.json'
    run(
        *('tools/make_subnet.py', QUICK / 'search_mobilenet-v2_digits.py'),
        *('--flops', '50%', '--input-shape', 3, 32, 32, '-o', out),
    )
    subnet = Subnet.load(out)
    space = SlimmableMobileNetV2().search_space
    assert subnet in [space.uniform(r / 1000) for r in range(1001)]
    model = Config.fromfile(QUICK / 'search_mobilenet-v2_digits.py').model.to_dict()
    half = measure(model, space.fullnet, (3, 32, 32))['flops'] / 2
    assert subnet.resources['flops'] == measure(model, subnet, (3, 32, 32))['flops']
    # the largest one within the limit, not the nearest one
    uniform = space.array([space.uniform(r / 1000) for r in range(1001)])
    flops = model_costs(model, (3, 32, 32))['flops'](uniform)
    assert subnet.resources['flops'] == flops[flops <= half].max() < half


def test_make_subnet_out_of_reach(tmp_path):
    result = run(
        *('tools/make_subnet.py', QUICK / 'search_mobilenet-v2_digits.py'),
        *('--flops', '900M', '--input-shape', 3, 32, 32, '-o', tmp_path / 'x.json'),
        expect=1,
    )
    assert 'this space reaches from' in result.stderr and not (tmp_path / 'x.json').exists()
    assert 'Traceback' not in result.stderr


def test_subnet_of_a_stock_segmentor(tmp_path):
    config, uniform = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', tmp_path / 'u.json'
    shape = ('--input-shape', 3, 64, 64)
    run('tools/make_subnet.py', config, '--params', '60%', *shape, '-o', uniform)
    said = run('tools/transfer.py', config, '--subnet', uniform, '-o', tmp_path / 'new.py').stdout
    assert 'FLOPs of the backbone: ' in said and 'parameters of the backbone: ' in said
    assert 'backbone: frozen_stages=-1, norm_eval=False\nweights: random\n' in said
    result = run('tools/transfer.py', config, '--subnet', 'no.json', '-o', 'x.py', expect=1)
    assert 'SubnetError' in result.stderr and 'Traceback' not in result.stderr
