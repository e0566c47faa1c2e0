"""The stages of a classifier, and how far those of a subnet are from the fullnet's.

A stage ends behind a module of the backbone; what follows the last one, with neck and head, is the
last stage. In one forward of the whole model every stage of a subnet starts from the fullnet's
feature, cut to its first channels, which takes the place of its own at each end: so no stage
depends on another, and no loss reaches beyond its stage.
Source: stage-wise pruning, arXiv 2011.04908; see docs/stagewise.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from mmengine.model import BaseModel
from mmengine.runner import autocast
from mmpretrain.models import ImageClassifier
from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.openmmlab.models.outputs import parts_of
from mmpse.openmmlab.teaching.distance import divergence, is_sigmoid
from mmpse.slim import Layout, Supernet
from mmpse.slim.cutting import mask_of
from mmpse.slim.layers import channel_dim, is_conv

BACKBONE = 'backbone'
SCORES = 'scores'  # name of the last stage


class Stages:
    """The stages of a classifier.

    Args:
        ends: Names of the modules of its backbone behind which a stage ends, in the order of the
            forward: ``['layer1', 'layer2', 'layer3']`` makes four stages. Each takes and gives one
            tensor, and what follows it reads that alone. ``None``: every child of the backbone with
            several convolutions, but for a last one.

    Raises:
        ValueError: If an end is no such module, or there is none.
    """

    def __init__(self, model: ImageClassifier, ends: Sequence[str] | None = None) -> None:
        self.model = model
        backbone = model.get_submodule(BACKBONE)
        modules = dict(backbone.named_modules())
        ends = tuple(_default_ends(backbone) if ends is None else ends)
        wrong = [end for end in ends if not end or end not in modules or ends.count(end) > 1]
        if wrong or not ends:
            raise UserError(
                f'stages must name modules of {type(backbone).__name__} behind which a stage ends, '
                f'each once, got {list(ends)} ({", ".join(map(repr, wrong)) or "none"}); some are '
                f'{", ".join(name for name in modules if name and "." not in name)}'
            )
        self.ends = tuple(f'{BACKBONE}.{end}' for end in ends)
        self.names = (*ends, SCORES)

    @property
    def parts(self) -> list[str]:
        """Names of the parts of a supernet with these stages: none of them is of two stages."""
        others = [name for name in parts_of(self.model) if name != BACKBONE]
        return [*_split(self.model, BACKBONE, self.ends), *others]

    def units(self, layout: Layout) -> list[tuple[str, ...]]:
        """The units of each stage, in the order of the layout: those of its layers, and those that
        join the stages before it with those behind it."""
        layers = [
            name
            for name in layout.layers
            if any(True for _ in self.model.get_submodule(name).parameters())
        ]
        last = [self._last_layer(layers, end) for end in self.ends]
        own: list[set[str]] = [set() for _ in self.names]
        for k, name in enumerate(layers):
            own[sum(k > at for at in last)] |= layout.layers[name].units
        passing = [
            {u for units in own[:k] for u in units} & {u for units in own[k:] for u in units}
            for k in range(len(own) + 1)
        ]
        return [
            tuple(u for u in layout.units if u in units | passing[k] | passing[k + 1])
            for k, units in enumerate(own)
        ]

    def _last_layer(self, layers: Sequence[str], end: str) -> int:
        """Number of the last layer of the stage that ends there."""
        parts = self.parts
        for part in reversed(parts[: parts.index(end) + 1]):  # the end may be a pooling
            if inside := [k for k, name in enumerate(layers) if _inside(name, part)]:
                return max(inside)
        return -1

    @contextmanager
    def at_ends(self, handle: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """In a ``with`` block the features at the ends are given to a function, and replaced by
        what it returns, if it returns something.

        Raises:
            ValueError: In a forward, if the ends are not passed once each and in their order.
        """
        passed: list[str] = []

        def on_end(name: str, y: Tensor) -> Tensor | None:
            passed.append(name)
            if self.ends[: len(passed)] != tuple(passed) or not isinstance(y, Tensor):
                raise UserError(
                    f'stages must end behind modules that the forward runs once each, in this '
                    f'order, and that give one tensor: expected {list(self.ends)}, the forward ran '
                    f'{passed}, the last of which gives a {type(y).__name__}'
                )
            return handle(y)

        with ExitStack() as stack:
            for end in self.ends:
                module = self.model.get_submodule(end)
                hook = module.register_forward_hook(lambda _, __, y, end=end: on_end(end, y))
                stack.enter_context(hook)
            yield

    def scores(self, images: Tensor) -> Tensor:
        """The scores ``(B, classes)`` of the model."""
        return ImageClassifier.forward(self.model, images, mode='tensor')

    def errors(self, supernet: Supernet, images: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
        """How far each active subnet's stages are from the fullnet's, summed over its images.

        Args:
            supernet: The supernet of the model, with active subnets and these stages' parts.
            images: ``(B, C, H, W)``.
            targets: The fullnet's features at the ends ``(B, ...)``, and its scores.

        Returns:
            Of every stage ``(2, groups)``: squared error and energy of the target's channels that
            the subnet has; of the last one ``KL(fullnet || subnet)``, by sigmoid or softmax as in
            the head's loss, and the number of images. Their ratio is the distance.
        """
        found: list[Tensor] = []

        def compare(y: Tensor) -> Tensor:
            k = len(found)
            target = self._kept(supernet, k, targets[k])
            dtype = torch.promote_types(y.dtype, torch.float32)  # sums of half floats overflow
            error, energy = (x.to(dtype).flatten(1).square().sum(1) for x in (y - target, target))
            found.append(_of_groups(torch.stack([error, energy]), groups))
            return target.to(y.dtype)

        groups = len(supernet.active_subnets)
        with self.at_ends(compare):
            scores = self.scores(images)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        target = targets[-1].to(dtype)
        sigmoid = is_sigmoid(self.model.head.loss_module, target.shape[1])
        error = divergence(scores.to(dtype), target, sigmoid)
        sums = torch.stack([error, torch.ones_like(error)])
        return [*found, _of_groups(sums, groups)]

    def _kept(self, supernet: Supernet, k: int, target: Tensor) -> Tensor:
        """A feature of the fullnet with zeros in the channels that each image's subnet lacks."""
        subnets = supernet.active_subnets
        side = supernet.layout.parts[self.ends[k]].outputs[0]
        masks = torch.stack([mask_of(side, subnet) for subnet in subnets]).to(target)
        shape = [1] * target.dim()
        shape[0], shape[channel_dim(target)] = len(target), masks.shape[1]
        return target * masks.repeat(len(target) // len(subnets), 1).view(shape)


def distance(errors: Tensor) -> Tensor:
    """Distances ``(groups,)`` of a stage's sums as :meth:`Stages.errors` gives them."""
    error, energy = errors
    return error / energy.clamp_min(torch.finfo(energy.dtype).tiny)


class StageJudge:
    """Distances of the stages of subnets to the fullnet's.

    Args:
        supernet: It has the stages' parts.
        images: Batches of preprocessed images ``(B, C, H, W)``.
        fp16: Run in mixed precision; see :class:`mmpse.openmmlab.search.judge.Judge`.
    """

    def __init__(
        self, stages: Stages, supernet: Supernet, images: Sequence[Tensor], fp16: bool = False
    ) -> None:
        self.stages = stages
        self.supernet = supernet
        self.images = images
        self.fp16 = fp16
        self._execution = 'sliced' if 'sliced' in supernet.executions else 'masked'
        self.targets = [self._features(x) for x in self.images]

    @torch.no_grad()
    def __call__(self, subnet: Mapping[str, int]) -> tuple[float, ...]:
        """The distance of each stage of a subnet; ``inf`` where it is not a number."""
        total: list[Tensor] = []
        with self.supernet.active([subnet], self._execution):
            for x, targets in zip(self.images, self.targets):
                self._normalise_by_batch()
                with autocast(enabled=self.fp16):
                    errors = self.stages.errors(self.supernet, x, targets)
                total = [a + b.double() for a, b in zip(total or [0] * len(errors), errors)]
        found = torch.cat([distance(errors) for errors in total])
        return tuple(found.nan_to_num(torch.inf, torch.inf).tolist())

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        """The fullnet's features at the ends, and its scores."""
        found: list[Tensor] = []
        with self.supernet.active([self.supernet.space.fullnet], self._execution):
            self._normalise_by_batch()
            with autocast(enabled=self.fp16), self.stages.at_ends(found.append):
                scores = self.stages.scores(images)
        return [*found, scores]

    def _normalise_by_batch(self) -> None:
        """As in training: in these modes of the model."""
        self.stages.model.eval()
        for norm in self.supernet.norms:
            norm.train()


def _of_groups(sums: Tensor, groups: int) -> Tensor:
    """Sums over the images of each group; image ``i`` is of group ``i % groups``."""
    return sums.view(2, -1, groups).sum(1)


def _default_ends(backbone: BaseModel) -> list[str]:
    convs = {
        name: sum(is_conv(m) for m in child.modules()) for name, child in backbone.named_children()
    }
    names = [name for name, count in convs.items() if count]
    return [name for name in names[:-1] if convs[name] > 1]


def _split(model: nn.Module, name: str, ends: Sequence[str]) -> list[str]:
    """The ends, and the largest modules with parameters in a module that lie between them."""
    module = model.get_submodule(name)
    if name not in ends and not any(True for _ in module.parameters()):
        return []
    if not any(_inside(end, name) and end != name for end in ends):
        return [name]
    children = (f'{name}.{child}' for child, _ in module.named_children())
    return [part for child in children for part in _split(model, child, ends)]


def _inside(name: str, module: str) -> bool:
    return f'{name}.'.startswith(f'{module}.')
