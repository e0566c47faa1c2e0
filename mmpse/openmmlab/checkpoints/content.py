"""What is in a checkpoint, whatever wrote it: tensors by name, and the dataset's classes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmpse.openmmlab.errors import CheckpointError, listed

from .files import Blank, without_arrays

# where training scripts keep the weights: mmengine and Lightning; torchvision and timm; others
STATES = ('state_dict', 'model', 'model_state_dict', 'module', 'net', 'weights')
AVERAGED = ('model_ema', 'state_dict_ema', 'ema')
# what wrappers put into names: torch.compile, FSDP and gradient checkpointing
WRAPPERS = ('_orig_mod.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')


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
        got = f'a {type(state).__name__}'
        if isinstance(state, Mapping):
            got = f'a mapping of {listed(map(str, state)) or "nothing"}'
        raise CheckpointError(
            f'{source} holds no weights: expected a mapping of names to tensors, or one with it as '
            f'"state_dict" or "model", got {got}; save model.state_dict()'
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


def dataset_meta_in(content: Any) -> dict[str, Any] | None:
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    found = meta.get('dataset_meta')
    if found is None and 'CLASSES' in meta:  # of mmdet 2 and mmseg 0
        found = {k.lower(): meta[k] for k in ('CLASSES', 'PALETTE') if meta.get(k) is not None}
    return without_arrays(dict(found)) if isinstance(found, Mapping) else None
