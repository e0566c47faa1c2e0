"""Any checkpoint of a model, whatever wrote it, into that model; and a report of what it filled."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpse.openmmlab.errors import CheckpointError, listed, one_line

from .files import Blank, read_checkpoint, save_checkpoint, without_arrays
from .layouts import to_mmpretrain

__all__ = [
    'CheckpointError',
    'Report',
    'check_whole',
    'load_weights',
    'read_checkpoint',
    'save_checkpoint',
]

# where training scripts keep the weights: mmengine and Lightning; torchvision and timm; others
STATES = ('state_dict', 'model', 'model_state_dict', 'module', 'net', 'weights')
AVERAGED = ('model_ema', 'state_dict_ema', 'ema')
# what wrappers put into names: torch.compile, FSDP and gradient checkpointing
WRAPPERS = ('_orig_mod.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')
COUNTER = '.num_batches_tracked'  # older checkpoints have none


@dataclass(frozen=True)
class Report:
    """What a checkpoint gave to a model; as text, one line.

    Attributes:
        source: The checkpoint.
        tensors: How many of the model's tensors it filled.
        random: Modules and tensors of the model that it did not fill: they start at random.
        unused: What of the checkpoint the model has no place for.
        notes: What else is to be known, such as the layout of the names.
        dataset_meta: The dataset's classes and palette, if the checkpoint has them.
    """

    source: str
    tensors: int
    random: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    dataset_meta: dict[str, Any] | None

    def __str__(self) -> str:
        said = [f'{self.tensors} tensors from {self.source}', *self.notes]
        if self.random:
            said.append(f'at random start {listed(self.random)}')
        if self.unused:
            said.append(f'without a place are {listed(self.unused)}')
        return '; '.join(said)


def load_weights(
    model: nn.Module,
    checkpoint: str | os.PathLike | Mapping[str, Any],
    source: str | None = None,
    optional: Collection[str] = (),
) -> Report:
    """Give a model the weights of a checkpoint of it, or of its backbone.

    The checkpoint may be of mmengine, torchvision, timm or Lightning, the state dict alone, or a
    model saved as a whole; with the names of the model, of torchvision or timm, behind any prefix
    that fits in one way (``module.``, ``model.``, ``_orig_mod.``, ``student.``). The whole backbone
    (without one the whole model) must be in it. Another part, such as a neck or a head, is taken if
    it is the same one; of a head for other classes all but the layers of another shape.

    Args:
        model: The model; if it has no weights in the checkpoint, a part stays as it is.
        checkpoint: Its path, URL or name, as :func:`read_checkpoint` takes it, or its content.
        source: What errors and the report call it, if it is the content.
        optional: Layers of the backbone that need not be in it.

    Raises:
        CheckpointError: If it cannot be read, holds no weights, is another model's (the message
            lists what is missing, left over and of another shape), or holds the model twice.
    """
    if not isinstance(checkpoint, Mapping):
        source = source or os.fspath(checkpoint)
        checkpoint = read_checkpoint(checkpoint)
    source = source or 'the given weights'
    weights, notes = weights_in(checkpoint, source)
    own = model.state_dict()
    found = _find(own, weights, source, type(model).__name__, optional)
    try:
        model.load_state_dict({**own, **found.used})
    except RuntimeError as error:
        raise CheckpointError(
            f'{source} does not fit {type(model).__name__}: {one_line(error)}'
        ) from error
    if found.layout:
        notes.append(f'named as in {found.layout}')
    if found.prefix:
        notes.append(f'behind the prefix {found.prefix!r}')
    return Report(
        source,
        len(found.used),
        tuple(collapsed([k for k in own if k not in found.used], own)),
        tuple(found.unused),
        tuple(notes),
        _dataset_meta(checkpoint),
    )


def check_whole(model: nn.Module, report: Report, what: str) -> None:
    """Make sure that a checkpoint filled all of a model: the backbone alone would leave a random
    head.

    Args:
        model: The model.
        report: What :func:`load_weights` gave to it.
        what: What errors call the model.

    Raises:
        CheckpointError: If weights are missing, but for heads that only training needs.
    """
    parameters = [name for name, _ in model.named_parameters()]
    lacking = [
        name
        for name in report.random
        if not name.startswith('auxiliary_head')
        and any(f'{parameter}.'.startswith(f'{name}.') for parameter in parameters)
    ]
    if lacking:
        instead = f'has {listed(report.unused)} instead' if report.unused else 'has nothing else'
        raise CheckpointError(
            f'{report.source} is of another model: it lacks {listed(lacking)} of {what}, and '
            f'{instead}; give the checkpoint that was trained by this config'
        )


# What is in a checkpoint


def weights_in(content: Any, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a checkpoint, without the names of wrappers; and what to tell of it."""
    notes = []
    if isinstance(content, Mapping):
        if 'ema_state_dict' in content:  # mmengine's hook saves them as the state_dict
            notes.append('the averaged ones (EMA)')
        elif averaged := [key for key in AVERAGED if content.get(key) is not None]:
            notes.append(f'not the averaged ones (its {averaged[0]})')
    state: Any = content
    while isinstance(state, Mapping):
        if isinstance(state, Blank) and '_modules' in vars(state):
            state = dict(_tensors(state))
            notes.append('of a model that was saved as a whole (its code was not run)')
        inner = next((state[k] for k in STATES if isinstance(state.get(k), Mapping)), None)
        if inner is None:
            break
        state = inner
    tensors = {
        key: value
        for key, value in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(key, str) and torch.is_tensor(value)
    }
    if not tensors:
        raise CheckpointError(
            f'{source} holds no weights: expected a mapping of names to tensors, or one with it as '
            f'"state_dict" or "model", got {_description(state)}; save model.state_dict()'
        )
    for wrapper in WRAPPERS:
        tensors = {key.replace(wrapper, ''): value for key, value in tensors.items()}
    return tensors, notes


def _tensors(module: Blank, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    """The state dict of a module whose class was not loaded."""
    attributes = vars(module)
    passing = attributes.get('_non_persistent_buffers_set') or ()
    for kind in ('_parameters', '_buffers'):
        for name, value in (attributes.get(kind) or {}).items():
            if torch.is_tensor(value) and name not in passing:
                yield prefix + name, value.detach()
    for name, child in (attributes.get('_modules') or {}).items():
        if isinstance(child, Blank):
            yield from _tensors(child, f'{prefix}{name}.')


def _description(value: Any) -> str:
    if isinstance(value, Mapping):
        return f'a mapping of {listed(map(str, value)) or "nothing"}'
    return f'a {type(value).__name__}'


def _dataset_meta(content: Any) -> dict[str, Any] | None:
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    found = meta.get('dataset_meta')
    if found is None and 'CLASSES' in meta:  # of mmdet 2 and mmseg 0
        found = {k.lower(): meta[k] for k in ('CLASSES', 'PALETTE') if meta.get(k) is not None}
    return without_arrays(dict(found)) if isinstance(found, Mapping) else None


# Which of its tensors is which of the model's


class _Match(NamedTuple):
    """One way to see a checkpoint as one of the model."""

    used: dict[str, Tensor]  # by the model's own names
    unused: list[str]
    missing: list[str]  # of what must be there
    unexpected: list[str]
    reshaped: list[str]
    prefix: str
    layout: str | None

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)


def _find(
    own: Mapping[str, Tensor],
    weights: dict[str, Tensor],
    source: str,
    kind: str,
    optional: Collection[str],
) -> _Match:
    matches = [
        _match(view, *prefixes, optional)
        for view in _views(own, weights)
        for prefixes in _prefixes(view)
    ]
    fitting = [match for match in matches if match.fits]
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


def _match(view: _View, prefix: str, start: str, optional: Collection[str]) -> _Match:
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
    reshaped = [
        f'{n} is {tuple(state[behind[n]].shape)}, expected {tuple(names[n][1].shape)}'
        for n in inside
        if n in behind and state[behind[n]].shape != names[n][1].shape
    ]
    taken = [name for name in inside if name in behind]
    if not start:
        for part in _parts(names, root):
            taken += _same(part, names, state, behind)
    used = {names[name][0]: state[behind[name]] for name in taken}
    keys = {behind[name] for name in taken}
    unused = collapsed([key for key in state if key not in keys], state)
    before = view.prefix + prefix.removesuffix(root if start else '')
    return _Match(used, unused, missing, unexpected, reshaped, before, view.layout)


def _dots(name: str) -> list[int]:
    return [k for k, letter in enumerate(name) if letter == '.']


def _parts(names: Iterable[str], root: str) -> list[str]:
    """The paths of what lies beside the backbone: neck, head, ..."""
    if not root:
        return []
    depth = root.count('.')
    parts = ('.'.join(n.split('.')[:depth]) + '.' for n in names if not n.startswith(root))
    return list(dict.fromkeys(parts))


def _same(
    part: str,
    names: Mapping[str, tuple[str, Tensor]],
    state: Mapping[str, Tensor],
    behind: Mapping[str, str],
) -> list[str]:
    """What of a part is in the checkpoint: nothing, unless it is the same part by its names."""
    ours = {n for n in names if n.startswith(part)}
    theirs = {n for n in behind if n.startswith(part)}
    if any(not n.endswith(COUNTER) for n in ours ^ theirs):
        return []
    differing = {
        n.rpartition('.')[0] for n in ours & theirs if state[behind[n]].shape != names[n][1].shape
    }
    return [n for n in names if n in ours & theirs and n.rpartition('.')[0] not in differing]


def _misfit(
    matches: list[_Match],
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
