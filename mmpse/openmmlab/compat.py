"""What mmpse needs of mmengine, mmdet, mmpretrain and torch that is private there, or patched here.

All of it is in this file, each with its reason, and ``tests/test_openmmlab/test_compat.py`` fails
when upstream moves. Importing it does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

import mmengine
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version

from mmpse.errors import UserError

if TYPE_CHECKING:
    from mmengine.evaluator import BaseMetric, Evaluator
    from mmengine.model import BaseModel
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner
    from torch import Tensor, nn

# torch 2.6: `recompile_limit`, ONNX by `dynamo=True`, `torch.load` that runs no code unless told to
# mmengine 0.10: new-style configs inherit and merge as we write them
LOWEST = dict(torch='2.6', mmengine='0.10')


# Versions


def check_versions() -> None:
    """Make sure that torch and mmengine are new enough; there is no upper limit.

    Raises:
        UserError: If one is older.
    """
    found = dict(mmengine=mmengine.__version__)
    try:
        found['torch'] = metadata.version('torch')
    except metadata.PackageNotFoundError:  # built from source, or not there: its import says so
        pass
    for package, version in found.items():
        if digit_version(version) < digit_version(LOWEST[package]):
            raise UserError(
                f'mmpse needs {package} {LOWEST[package]} or newer, found {version}; upgrade it '
                f'(pip install --upgrade {package})'
            )


# Configs


def teach_config_names() -> None:
    """Let ``_base_ = 'mmpse::...'`` and ``'mmseg::...'`` be found.

    MMEngine looks a package up in MODULE2PACKAGE before it reads a base. It knows mmseg by the name
    of one distribution; the import name fits every distribution. And it takes ``mmpse::...`` to
    hold names of the scope mmpse, but our configs' names are those of the ``default_scope`` that
    they set, or begin with ``mmpse.``.
    """
    MODULE2PACKAGE.update(mmpse='mmpse', mmseg='mmseg')
    original = Config._get_cfg_path

    def without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == 'mmpse' else scope

    Config._get_cfg_path = staticmethod(without_scope)


def config_path(name: str) -> str:
    """Path of the file that ``'mmdet::...'`` names; MMEngine has no function for it.

    (``mmengine.hub.get_config`` runs pip if it takes the package to be missing.)
    """
    return Config._get_cfg_path(name, '')[0]


def is_new_style(path: str) -> bool:
    """Whether MMEngine reads a config file as a new-style one (``read_base``, types as classes).

    The two styles cannot inherit from each other, and MMEngine tells them apart by itself.
    """
    return Config._is_lazy_import(path)


# Datasets


def is_of_no_images(error: ValueError) -> bool:
    """Whether an error is NumPy's, as MMEngine's ``BaseDataset`` packs its images and has none."""
    return str(error) == 'need at least one array to concatenate'


def is_of_one_value(error: ValueError) -> bool:
    """Whether an error is PyTorch's, as a BatchNorm in training sees one value of each channel."""
    return 'more than 1 value per channel when training' in str(error)


# The runner


def load_path(runner: Runner) -> str | None:
    """``load_from`` of a runner, which keeps it to itself."""
    return runner._load_from


def is_resuming(runner: Runner) -> bool:
    """Whether a runner was told to resume."""
    return runner._resume


def take_over_resuming(runner: Runner) -> bool:
    """Whether a runner was told to resume, which it now will not do.

    A search goes on from its archive; its runner would look for a checkpoint of the search.
    """
    resuming, runner._resume = runner._resume, False
    return resuming


def randomness(runner: Runner) -> dict[str, Any]:
    """The arguments of ``set_randomness`` in a runner's config."""
    return dict(runner._randomness_cfg)


def accumulative_counts(optim_wrapper: OptimWrapper) -> int:
    """Over how many steps an optimizer wrapper accumulates gradients."""
    return optim_wrapper._accumulative_counts


def forward_by_mode(model: BaseModel, data: Any, mode: str) -> Any:
    """The forward of a model on preprocessed data, a tuple, list or dict of its arguments.

    ``train_step`` and ``val_step`` have no mode ``'tensor'``, and update weights.
    """
    return model._run_forward(data, mode=mode)


@contextmanager
def training_ends() -> Iterator[None]:
    """Inside, a model that asks how long it has been trained takes the training to be at its end.

    Some lose something else in their first epochs (TOOD). They ask MMEngine's message hub, which a
    runner fills: without one they fail, and that of an earlier training misleads them.
    """
    from mmengine.logging import MessageHub

    info = MessageHub.get_current_instance().runtime_info
    before = dict(info)
    info.update(epoch=sys.maxsize, iter=sys.maxsize)
    try:
        yield
    finally:
        info.clear()
        info.update(before)


def mark_initialised(model: nn.Module, how: str) -> None:
    """Keep ``init_weights`` from going over weights that were just loaded.

    Every child is marked; the top module alone would leave theirs to their own ``init_cfg``.
    """
    from mmengine.model import BaseModule, update_init_info

    for child in model.modules():
        if isinstance(child, BaseModule):
            child.is_init = True
    if hasattr(model, '_params_init_info'):  # within an outer model's init_weights
        update_init_info(model, how)


# Distributed jobs and metrics


@contextmanager
def alone() -> Iterator[None]:
    """Inside, MMEngine and what is built on it see a job of one process.

    Processes judge different subnets, each on the same, whole data: nothing may be split among them
    by samplers, gathered from them by metrics, or averaged over them by losses. MMEngine has no
    setting for that.

    Raises:
        UserError: If MMEngine still sees the other processes: every rank would get a wrong score.
    """
    import torch
    from mmengine.dist import get_rank, get_world_size

    is_initialized = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False
    try:
        if (get_rank(), get_world_size()) != (0, 1):
            raise UserError(
                f'mmengine {mmengine.__version__} no longer asks torch.distributed.is_initialized '
                'whether it runs in several processes, so that subnets cannot be judged in '
                'parallel; search in one process, or install another version'
            )
        yield
    finally:
        torch.distributed.is_initialized = is_initialized


@contextmanager
def unrounded(kinds: Iterable[type]) -> Iterator[None]:
    """Inside, metrics of these classes give their figures in full precision.

    mmdet's round theirs to three decimals with the builtin ``round``, so that detectors of
    different quality tie.
    """
    from mmengine.evaluator import BaseMetric

    bases = {base for kind in kinds for base in kind.__mro__}
    names = {base.__module__ for base in bases if issubclass(base, BaseMetric)}
    modules = [sys.modules[name] for name in names if not hasattr(sys.modules[name], 'round')]
    for module in modules:
        module.round = lambda value, digits=None: round(value) if digits is None else value
    try:
        yield
    finally:
        for module in modules:
            del module.round


def takes_some_images(evaluator: Evaluator) -> bool:
    """Whether metrics can be computed of some images of a set, from these images' results.

    Evaluators of several sets find each by its place in the results. Metrics with a file of
    annotations count the images without a result as missed; of these, :func:`of_some_images` helps
    mmdet's COCO metrics.
    """
    from mmengine.evaluator import Evaluator

    return type(evaluator) is Evaluator and all(
        _is_coco(metric) or not (hasattr(metric, '_coco_api') or hasattr(metric, 'ann_file'))
        for metric in evaluator.metrics
    )


@contextmanager
def of_some_images(metric: BaseMetric, results: Sequence[Any]) -> Iterator[None]:
    """Inside, a metric has the results of some images, which it takes for all that there are."""
    metric.results = list(results)
    if not _is_coco(metric):
        yield
        return
    before, metric.img_ids = metric.img_ids, [truth['img_id'] for truth, _ in results]
    try:
        yield
    finally:
        metric.img_ids = before


@contextmanager
def matched_once() -> Iterator[None]:
    """Inside, COCO's evaluation matches what is predicted for an image with the truth only once.

    It takes most of the time, and does not depend on which other images there are. Predictions must
    stay the same inside.
    """
    module = sys.modules.get('pycocotools.cocoeval')
    if module is None:
        yield
        return
    known: dict[tuple, Any] = {}

    def once(name: str, stock: Callable) -> Callable:
        def call(self: Any, *args: Any) -> Any:
            of = name, self.cocoGt, self.params.iouType, self.params.useCats
            key = *of, *(tuple(x) if isinstance(x, list) else x for x in args)
            if key not in known:
                known[key] = stock(self, *args)
            return known[key]

        return call

    names = 'computeIoU', 'evaluateImg'
    before = {name: getattr(module.COCOeval, name) for name in names}
    for name, stock in before.items():
        setattr(module.COCOeval, name, once(name, stock))
    try:
        yield
    finally:
        for name, stock in before.items():
            setattr(module.COCOeval, name, stock)


def _is_coco(metric: BaseMetric) -> bool:
    module = sys.modules.get('mmdet.evaluation.metrics.coco_metric')
    return module is not None and isinstance(metric, module.CocoMetric)


# Checkpoints


def published_weights(name: str) -> str | None:
    """Where mmpretrain publishes the weights of its model ``resnet50_8xb32_in1k``; None: nowhere.

    Raises:
        ValueError: If it has no such model.
    """
    from mmpretrain.apis.model import ModelHub

    return ModelHub.get(name).weights


# PyTorch


def clamp_backward(grad: Tensor, y: Tensor, lowest: float, highest: float) -> Tensor:
    """The gradient of a clamp from its output; the public one needs the input."""
    import torch

    return torch.ops.aten.hardtanh_backward(grad, y, lowest, highest)


def compiling_many() -> AbstractContextManager:
    """Inside, one code object may be compiled for many subnets; PyTorch gives up after a few."""
    import torch

    return torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1024)


@contextmanager
def sizes_stay_symbols() -> Iterator[None]:
    """Inside, what is traced for export keeps sizes free in mmseg's ``Upsample``.

    It computes ``int(size * 2.0)``, and ``int`` makes a number of a symbol: the size of the traced
    images would be in the file. ``torch.sym_int`` is the same for numbers.
    """
    import torch

    wrappers = sys.modules.get('mmseg.models.utils.wrappers')
    if wrappers is None:
        yield
        return
    wrappers.int = torch.sym_int
    try:
        yield
    finally:
        del wrappers.int


@contextmanager
def deformable_attention_unsampled() -> Iterator[None]:
    """Inside, mmcv's deformable attention on a CPU passes NaN on as it does, and computes nothing.

    Sampling takes most of the time in which a DETR is watched. A channel depends on itself at all
    positions, and on the places and weights of its own head.
    """
    attention = sys.modules.get('mmcv.ops.multi_scale_deform_attn')
    if attention is None:
        yield
        return

    def marked(value: Tensor, shapes: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        of_heads = (places.sum((1, 3, 4, 5)) + weights.sum((1, 3, 4)))[..., None]  # (B, heads, 1)
        marks = ((value.sum(1) + of_heads) * 0).flatten(1)
        return marks[:, None].repeat(1, places.shape[1], 1)

    stock = attention.multi_scale_deformable_attn_pytorch
    attention.multi_scale_deformable_attn_pytorch = marked
    try:
        yield
    finally:
        attention.multi_scale_deformable_attn_pytorch = stock
