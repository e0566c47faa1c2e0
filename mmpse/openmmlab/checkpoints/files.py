"""Checkpoints as files: read without running what is in them, written as a whole."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import mmengine
import numpy as np
import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmpse.files import written
from mmpse.openmmlab import compat
from mmpse.openmmlab.configs.source import plain
from mmpse.openmmlab.errors import CheckpointError, one_line
from mmpse.version import __version__


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The content of a checkpoint, on the CPU.

    No code in it is run: classes other than tensors' and containers' come out as :class:`Blank`,
    which has their attributes. So a model that was saved as a whole can be read too.

    Args:
        path: A file (``.pth`` and the like, or ``.safetensors``), its URL, or a name that a library
            downloads: ``torchvision://resnet50``, ``timm://resnet50.a1_in1k``,
            ``mmpretrain://resnet50_8xb32_in1k`` and those of mmengine.

    Raises:
        CheckpointError: If it is missing, no checkpoint, or a TorchScript archive.
    """
    path = os.fspath(path)
    try:
        if path.startswith(('http://', 'https://')):
            return _read_file(_downloaded(path))
        if '://' in path:
            return CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='current')
        return _read_file(Path(path).expanduser())
    except FileNotFoundError as error:
        raise CheckpointError(
            f'cannot read the checkpoint {path}: there is no such file'
        ) from error
    except Exception as error:  # the readers raise whatever they do
        reason = f'{type(error).__name__}: {one_line(error)}'
        raise CheckpointError(
            f'cannot read the checkpoint {path} ({reason}); give a file that torch.save or '
            'safetensors wrote'
        ) from error


def _downloaded(url: str) -> Path:
    """The file of a URL, where PyTorch and mmengine keep theirs."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    return path


def _read_file(path: Path) -> Any:
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file  # an optional requirement

        return load_file(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError:  # it names classes; mmengine's own checkpoints do
        reader = SimpleNamespace(
            __name__='mmpse', Unpickler=_Unpickler, load=lambda *a, **k: _Unpickler(*a, **k).load()
        )
        return torch.load(path, map_location='cpu', weights_only=False, pickle_module=reader)


class Blank(dict):
    """What takes the place of an object whose class is not to be run: its items and attributes."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):  # of slots and of attributes
                self.__dict__.update(part)

    def __call__(self, *args, **kwargs) -> Blank:
        return Blank()

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class _Unpickler(pickle.Unpickler):
    """Makes tensors, arrays and containers, and a :class:`Blank` of everything else."""

    ALLOWED = {
        '_codecs': ('encode',),  # how Python 2's protocol writes bytes
        'builtins': ('bytearray', 'complex', 'dict', 'frozenset', 'list', 'set', 'slice', 'tuple'),
        'collections': ('OrderedDict',),
        'numpy': ('dtype', 'ndarray'),
        'numpy.core.multiarray': ('_reconstruct',),
        'numpy._core.multiarray': ('_reconstruct',),
        'torch': ('Size', 'UntypedStorage', 'device'),
        'torch.storage': ('UntypedStorage',),
        'torch._utils': (
            *('_rebuild_tensor', '_rebuild_tensor_v2'),
            *('_rebuild_parameter', '_rebuild_parameter_with_state'),
        ),
    }

    def find_class(self, module: str, name: str) -> Any:
        module = {'__builtin__': 'builtins'}.get(module, module)
        dtype = module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in self.ALLOWED.get(module, ()):
            return super().find_class(module, name)
        return type(name, (Blank,), {'__module__': module})


@CheckpointLoader.register_scheme(prefixes='timm://')
def _load_from_timm(name: str, map_location=None) -> dict[str, Tensor]:
    import timm  # slow to import

    return timm.create_model(name.removeprefix('timm://'), pretrained=True).state_dict()


@CheckpointLoader.register_scheme(prefixes='mmpretrain://')
def _load_from_mmpretrain(name: str, map_location=None) -> Any:
    return read_checkpoint(compat.published_weights(name.removeprefix('mmpretrain://')))


def save_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    dataset_meta: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> None:
    """Write a model's weights as OpenMMLab's packages read them.

    Args:
        dataset_meta: The dataset's names and colours of the classes, without which mmdet's and
            mmseg's inference cannot show anything.
        without: Modules and tensors that are left out.

    Raises:
        ValueError: If the dataset's is more than plain data.
    """
    meta: dict[str, Any] = dict(mmpse_version=__version__, mmengine_version=mmengine.__version__)
    if dataset_meta is not None:
        meta['dataset_meta'] = without_arrays(dataset_meta)
    # copies: what was cut may be a part of a larger tensor, which would be written instead
    state = {
        key: value.detach().cpu().clone()
        for key, value in model.state_dict().items()
        if not any(f'{key}.'.startswith(f'{name}.') for name in without)
    }
    content = io.BytesIO()  # of a full disk, torch says something about iostreams
    torch.save(dict(meta=plain(meta), state_dict=state), content)
    with written(path) as (temporary,):
        temporary.write_bytes(content.getbuffer())


def without_arrays(value: Any) -> Any:
    """Data with arrays as lists, so that it can be written as plain data."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: without_arrays(item) for key, item in value.items()}
    if isinstance(value, (tuple, set)):
        return tuple(map(without_arrays, value))
    return list(map(without_arrays, value)) if isinstance(value, list) else value
