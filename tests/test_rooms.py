"""The package is a house with one way down: no two of its files, and no two folders, import each
other in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MODULES = {
    '.'.join(path.relative_to(REPO).with_suffix('').parts).removesuffix('.__init__'): path
    for path in (REPO / 'mmpse').rglob('*.py')
}


def imported(module):
    """The modules of the package that one imports, in functions too."""
    path = MODULES[module]
    package = module if path.name == '__init__.py' else module.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            base = package.rsplit('.', node.level - 1)[0] if node.level else ''
            base = '.'.join(filter(None, [base, node.module]))
            for alias in node.names:
                name = f'{base}.{alias.name}'
                yield from [name] if name in MODULES else [base] if base in MODULES else []


def room(depth):
    """The folder of a module, so many levels below the package; a file there is one itself."""
    return lambda module: '.'.join(module.split('.')[: 1 + depth])


@pytest.mark.parametrize('place', [str, room(1), room(2)], ids=['files', 'rooms', 'inner rooms'])
def test_imports_run_one_way_down(place):
    graph = {}
    for module in MODULES:
        below = {place(name) for name in imported(module)} - {place(module)}
        graph.setdefault(place(module), set()).update(below)
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names it
    assert order.index(place('mmpse.space.cost')) < order.index(place('mmpse.cli'))
