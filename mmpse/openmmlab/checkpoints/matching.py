"""Which of a checkpoint's tensors is which of a model's."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmpse.openmmlab.errors import CheckpointError, listed

from .layouts import to_mmpretrain
from .supernet import COUNTER


class Match(NamedTuple):
    """One way to see a checkpoint as one of the model."""

    used: dict[str, Tensor]  # by the model's own names
    unused: list[str]
    missing: list[str]  # of what must be there
    unexpected: list[str]
    reshaped: list[str]
    differing: list[str]  # of another shape, and need not be there
    prefix: str
    layout: str | None


def find_match(
    own: Mapping[str, Tensor],
    weights: dict[str, Tensor],
    source: str,
    kind: str,
    optional: Collection[str],
) -> Match:
    matches = [
        _match(view, *prefixes, optional)
        for view in _views(own, weights)
        for prefixes in _prefixes(view)
    ]
    fitting = [m for m in matches if not (m.missing or m.unexpected or m.reshaped)]
    if not fitting:
        raise CheckpointError(_misfit(matches, own, weights, source, kind))
    most = max(len(match.used) for match in fitting)
    # two views of the same tensors are one match
    best = {
        frozenset(map(id, match.used.values())): match
        for match in reversed(fitting)
        if len(match.used) == most
    }
    plain = [match for match in best.values() if not match.prefix]
    if len(best) > 1 and not plain:
        prefixes = sorted(match.prefix for match in best.values())
        raise CheckpointError(
            f'{source} holds the model more than once ({listed(prefixes)}); save the one that is '
            'meant, under its names without the prefix'
        )
    return plain[0] if plain else next(iter(best.values()))


def backbone_root(own: Iterable[str]) -> str:
    """The path of the backbone in names of tensors, with its dot; '' without one."""
    for key in own:
        if 'backbone' in (parts := key.split('.')[:-1]):
            return '.'.join(parts[: parts.index('backbone') + 1]) + '.'
    return ''


class _View(NamedTuple):
    """The model's tensors and the checkpoint's, by names that can be compared."""

    names: dict[str, tuple[str, Tensor]]  # with the model's own name
    state: dict[str, Tensor]
    root: str  # what the names of the backbone begin with
    prefix: str = ''  # what the checkpoint's own names have before these
    layout: str | None = None


def _views(own: Mapping[str, Tensor], weights: dict[str, Tensor]) -> Iterator[_View]:
    root = backbone_root(own)
    yield _View({key: (key, value) for key, value in own.items()}, weights, root)
    outer = root.removesuffix('backbone.')  # of a model in a model
    inner = {k[len(outer) :]: v for k, v in own.items() if k.startswith(outer)}
    try:
        public = {id(value): name for name, value in to_mmpretrain(inner)[0].items()}
    except ValueError:  # its names are of no layout
        return
    names = {public.get(id(value), key): (key, value) for key, value in own.items()}
    for prefix in _wrapping(weights):
        state = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
        try:
            state, layout = to_mmpretrain(state)
        except ValueError:
            continue
        yield _View(names, state, 'backbone.', prefix, layout)


def _wrapping(weights: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that most of the names share, the empty one first."""
    counts = Counter(
        key[: end + 1] for key in weights for end, letter in enumerate(key) if letter == '.'
    )
    shared = [prefix for prefix, count in counts.items() if 2 * count > len(weights)]
    return ['', *sorted(shared, key=len)]


def _prefixes(view: _View) -> list[tuple[str, str]]:
    """Pairs of a prefix in the checkpoint and one in the model behind which most names agree."""
    if view.layout is not None:  # its names are whole
        return [('', '')] if view.names.keys() & view.state else []
    votes: Counter = Counter()
    for key in view.state:
        for start in (0, *(end + 1 for end in _dots(key))):
            for own in {'', view.root}:
                if own + key[start:] in view.names:
                    votes[key[:start], own] += 1
    most = max(votes.values(), default=0)
    return [pair for pair, count in votes.most_common() if 2 * count > most]


def _match(view: _View, prefix: str, start: str, optional: Collection[str]) -> Match:
    """See ``prefix + x`` in the checkpoint as ``start + x`` in the model."""
    names, state, root = view.names, view.state, view.root
    behind = {start + key[len(prefix) :]: key for key in state if key.startswith(prefix)}
    inside = [name for name in names if name.startswith(root)]
    deep = {name[: end + 1] for name in inside for end in _dots(name) if end >= len(root)}
    missing = [
        n
        for n in inside
        if n not in behind
        and not n.endswith(COUNTER)
        and names[n][0].rpartition('.')[0] not in optional
    ]
    unexpected = [  # a part of a layer or stage that the backbone has, such as more of its blocks
        name
        for name in behind
        if name not in names
        and not name.endswith(COUNTER)
        and any(name[: end + 1] in deep for end in _dots(name))
    ]
    shapes = {n: (state[behind[n]].shape, names[n][1].shape) for n in names if n in behind}
    unlike = {
        n: f'{n} is {tuple(found)}, expected {tuple(expected)}'
        for n, (found, expected) in shapes.items()
        if found != expected
    }
    reshaped = [unlike[n] for n in inside if n in unlike]
    differing = [text for n, text in unlike.items() if not n.startswith(root)]
    taken = [name for name in inside if name in behind]
    if not start:
        for part in _parts(names, root):
            taken += _same(part, names, state, behind)
    used = {names[name][0]: state[behind[name]] for name in taken}
    keys = {behind[name] for name in taken}
    unused = collapsed([key for key in state if key not in keys], state)
    before = view.prefix + prefix.removesuffix(root if start else '')
    return Match(used, unused, missing, unexpected, reshaped, differing, before, view.layout)


def _dots(name: str) -> list[int]:
    return [k for k, letter in enumerate(name) if letter == '.']


def _parts(names: Iterable[str], root: str) -> list[str]:
    """The paths of what lies beside the backbone: neck, head, a tensor of the model itself, ..."""
    if not root:
        return []
    depth = root.count('.')
    parts = ('.'.join(n.split('.')[:depth]) for n in names if not n.startswith(root))
    return list(dict.fromkeys(parts))


def _same(
    part: str,
    names: Mapping[str, tuple[str, Tensor]],
    state: Mapping[str, Tensor],
    behind: Mapping[str, str],
) -> list[str]:
    """What of a part is in the checkpoint: nothing, unless it is the same part by its names."""
    ours, theirs = (
        {n for n in among if n == part or n.startswith(f'{part}.')} for among in (names, behind)
    )
    more = {n for n in theirs - ours if not _is_shared(n, state, behind)}
    if any(not n.endswith(COUNTER) for n in more | (ours - theirs)):
        return []
    differing = {
        n.rpartition('.')[0] for n in ours & theirs if state[behind[n]].shape != names[n][1].shape
    }
    return [n for n in names if n in ours & theirs and n.rpartition('.')[0] not in differing]


def _is_shared(name: str, state: Mapping[str, Tensor], behind: Mapping[str, str]) -> bool:
    """Whether another part has the same tensor: a training lets parts share a module (DDQ)."""
    tail, value = name.partition('.')[2], state[behind[name]]
    return any(
        n != name and n.partition('.')[2] == tail and torch.equal(state[key], value)
        for n, key in behind.items()
    )


def _misfit(
    matches: list[Match],
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    source: str,
    kind: str,
) -> str:
    text = f'{source} is not a checkpoint of this {kind}'
    if not matches:
        return (
            f'{text}: no name is in both; it has {listed(weights, 3)}, the model {listed(own, 3)}'
        )
    best = min(matches, key=lambda m: len(m.missing) + len(m.unexpected) + len(m.reshaped))
    lists = {
        'missing': best.missing,
        'unexpected': best.unexpected,
        'of another shape': best.reshaped,
    }
    problems = '; '.join(f'{len(n)} {what} ({listed(n, 3)})' for what, n in lists.items() if n)
    layout = f' (named as in {best.layout})' if best.layout else ''
    return f'{text}{layout}: {problems}; give one of the same architecture, depth and width'


def collapsed(names: Iterable[str], among: Iterable[str]) -> list[str]:
    """Names, and for all that begin alike what they begin with: 'neck' for all of the neck."""
    names = {name for name in names if not name.endswith(COUNTER)}
    rest = [key for key in among if key not in names and not key.endswith(COUNTER)]
    left = {key[:end] for key in rest for end in _dots(key)}
    result = {}
    for name in among:
        if name in names:
            whole = next((name[:end] for end in _dots(name) if name[:end] not in left), name)
            result[whole] = None
    return list(result)
