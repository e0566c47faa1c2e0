import subprocess
import sys

import pytest

from mmpse.space import SearchSpace, WidthUnit

TOY = dict(type='Toy')


def test_candidates_are_distinct_multiples_and_hold_the_full_width():
    unit = WidthUnit.from_grid('u', 24, [0.2, 0.25, 0.3, 0.5, 1.0], 8)
    assert unit.candidates == (8, 16, 24)  # three ratios round to 8: one candidate
    assert WidthUnit.from_grid('u', 30, [0.5, 1.0], 8).candidates == (16, 30)
    assert WidthUnit.from_grid('u', 64, [0.5], 16).candidates == (32, 64)


def test_fullnet_tinynet_and_size():
    space = SearchSpace(dict(a=16, b=32), TOY, [0.25, 0.5, 1.0])
    assert dict(space.fullnet) == dict(a=16, b=32)
    assert dict(space.tinynet) == dict(a=8, b=8)
    assert space.size == 2 * 3
    assert len({space.fullnet, space.tinynet, space.subnet([16, 32])}) == 2


def test_uniform_takes_the_nearest_candidate():
    space = SearchSpace(dict(a=16, b=32), TOY, [0.25, 0.5, 0.75, 1.0])
    assert dict(space.uniform(0.7)) == dict(a=8, b=24)


@pytest.mark.parametrize(
    'arguments', [dict(ratios=[]), dict(ratios=[0, 1]), dict(ratios=[1.2]), dict(divisor=0)]
)
def test_bad_grid(arguments):
    with pytest.raises(ValueError, match='must be'):
        SearchSpace(dict(a=16), TOY, **arguments)


def test_space_needs_no_torch():
    code = 'import sys; sys.modules["torch"] = None; sys.modules["mmengine"] = None\n'
    code += 'import importlib.util as u; find = u.find_spec\n'
    code += 'u.find_spec = lambda name, *a: None if name == "mmengine" else find(name, *a)\n'
    code += 'from mmpse.space import SearchSpace; print(len(SearchSpace(dict(a=8), {})))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '1'
