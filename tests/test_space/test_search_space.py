import subprocess
import sys

import pytest

from mmpse.space import SearchSpace, Subnet, WidthUnit

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


def test_uniform_rows_are_the_distinct_uniform_subnets():
    space = SearchSpace(dict(a=64, b=32), dict(type='Toy'), ratios=(0.25, 0.5, 1.0))
    assert space.uniform_rows().tolist() == [[16, 8], [32, 16], [64, 32]]
    expected = {tuple(space.uniform(r).values()) for r in (0, 0.3, 0.4, 0.7, 1)}
    assert expected <= set(map(tuple, space.uniform_rows().tolist()))


def test_uniform_takes_the_nearest_candidate():
    space = SearchSpace(dict(a=16, b=32), TOY, [0.25, 0.5, 0.75, 1.0])
    assert dict(space.uniform(0.7)) == dict(a=8, b=24)


@pytest.mark.parametrize(
    'arguments',
    [dict(ratios=[]), dict(ratios=[0, 1]), dict(ratios=[1.2]), dict(ratios='1'), dict(divisor=0)],
)
def test_bad_grid(arguments):
    with pytest.raises(ValueError, match='must be'):
        SearchSpace(dict(a=16), TOY, **arguments)


def candidates(space):
    return {unit.name: unit.candidates for unit in space.units}


@pytest.mark.parametrize(
    ('grid', 'expected'),
    [
        # AutoSlim (2/12 to 12/12), BCNet (steps of 5 %), MetaPruning (31 ratios, any number)
        (dict(ratios=[k / 12 for k in range(2, 13)]), tuple(range(16, 97, 8))),
        (dict(ratios=[k / 20 for k in range(1, 21)], divisor=1), None),
        (dict(ratios=[(10 + 3 * k) / 100 for k in range(31)], divisor=1), None),
        # widths that the hardware likes; explicit widths; not below half
        (dict(divisor=16), (16, 32, 48, 64, 80, 96)),
        (dict(ratios=[24 / 96, 60 / 96], divisor=1), (24, 60, 96)),
        (dict(ratios=[0.5, 0.75, 1.0]), (48, 72, 96)),
    ],
)
def test_grids_of_the_neighbours(grid, expected):
    (unit,) = SearchSpace(dict(u=96), TOY, **grid).units
    if expected is None:  # every ratio is a width of its own
        expected = tuple(int(96 * ratio + 0.5) for ratio in grid['ratios'])
    assert unit.candidates == expected


def test_grids_of_some_units_only():
    """Units named by pattern are kept at full width or get a grid of their own."""
    widths = {'stem': 32, 'layer1': 64, 'layer1.0': 64, 'layer2': 128, 'layer2.0': 128}
    half = [0.5, 1.0]
    frozen = SearchSpace(widths, TOY, half, grids={'layer1*': dict(ratios=[1.0])})
    assert candidates(frozen) == {
        'stem': (16, 32),
        'layer1': (64,),
        'layer1.0': (64,),
        'layer2': (64, 128),
        'layer2.0': (64, 128),
    }
    # the last pattern that matches holds, and what it leaves out is that of the whole space
    only = {'*': dict(ratios=[1.0]), 'layer2*': dict(divisor=32), '*.0': dict(ratios=[0.25])}
    assert candidates(SearchSpace(widths, TOY, half, 16, only)) == {
        'stem': (32,),
        'layer1': (64,),
        'layer1.0': (16, 64),
        'layer2': (64, 128),
        'layer2.0': (32, 128),
    }


def test_bad_grids():
    widths = {'stem': 32, 'layer1': 64}
    with pytest.raises(ValueError, match=r"'layer3\*'.* no unit; the units are stem, layer1"):
        SearchSpace(widths, TOY, grids={'layer3*': dict(ratios=[1.0])})
    with pytest.raises(ValueError, match=r"'stem'.* must be a dict of ratios and/or divisor"):
        SearchSpace(widths, TOY, grids={'stem': dict(ratio=[1.0])})
    with pytest.raises(ValueError, match=r'numbers in \(0, 1\], got \[2\]'):
        SearchSpace(widths, TOY, grids={'stem': dict(ratios=[2])})


def test_the_grid_is_part_of_a_subnets_backbone(tmp_path):
    widths = {'stem': 32, 'layer1': 64}
    plain = SearchSpace(widths, TOY, [0.5, 1])
    assert plain.backbone['grid'] == {'ratios': [0.5, 1.0], 'divisor': 8}
    other = SearchSpace(widths, TOY, [0.5, 1], grids={'stem': dict(ratios=(1,))})
    loaded = Subnet.load(other.tinynet.save(tmp_path / 's.json'))
    again = SearchSpace(widths, TOY, **loaded.grid)
    assert again.units == other.units and again.backbone == loaded.backbone


def test_space_needs_no_torch():
    code = 'import sys; sys.modules["torch"] = None; sys.modules["mmengine"] = None\n'
    code += 'import importlib.util as u; find = u.find_spec\n'
    code += 'u.find_spec = lambda name, *a: None if name == "mmengine" else find(name, *a)\n'
    code += 'from mmpse.space import SearchSpace; print(len(SearchSpace(dict(a=8), {})))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '1'
