import json

import pytest

from mmpse.space import SearchSpace, Subnet, SubnetError


@pytest.fixture
def space():
    return SearchSpace(dict(stem=32, layer1=64), dict(type='Toy', width=1.0))


def test_subnet_file_round_trip(space, tmp_path):
    subnet = space.subnet([16, 32], resources=dict(flops=123), source=dict(score=0.5))
    path = subnet.save(tmp_path / 'deep' / 'subnet.json')
    loaded = Subnet.load(path)
    assert loaded == subnet and hash(loaded) == hash(subnet)
    assert loaded.resources == {'flops': 123} and loaded.source == {'score': 0.5}
    assert [p.name for p in path.parent.iterdir()] == ['subnet.json']  # no temporary file is left


def test_truncated_file(space, tmp_path):
    path = space.fullnet.save(tmp_path / 'subnet.json')
    path.write_text(path.read_text()[:-20])
    with pytest.raises(SubnetError, match=r'subnet\.json is not whole JSON .* cut off'):
        Subnet.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(SubnetError, match='cannot read the subnet file .*nowhere.json.*search'):
        Subnet.load(tmp_path / 'nowhere.json')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.update(schema='other/1'), r'key "schema" is \'other/1\', expected'),
        (lambda d: d.pop('widths'), 'key "widths" must be a non-empty JSON object, got None'),
        (lambda d: d['widths'].update(stem='8'), r'widths\["stem"\] must be a positive whole'),
        (lambda d: d['backbone'].pop('grid'), 'key "backbone.grid" must be a JSON object'),
    ],
)
def test_damaged_content(space, tmp_path, change, message):
    path = space.fullnet.save(tmp_path / 'subnet.json')
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(SubnetError, match=message) as error:
        Subnet.load(path)
    assert str(path) in str(error.value)


def test_content_that_is_not_an_object():
    with pytest.raises(SubnetError, match='expected a JSON object'):
        Subnet.from_dict([1, 2])
