"""A searched classifier's backbone inside a detector or segmentor."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmpse.errors import UserError
from mmpse.slim import Layout, check_cut
from mmpse.slim.cutting import CutError, kept
from mmpse.space import Subnet

from .checkpoints.files import save_checkpoint
from .checkpoints.layouts import to_mmpretrain
from .checkpoints.loading import load_cut
from .checkpoints.matching import backbone_root
from .configs.building import build_model
from .configs.files import base_name, load_config, write_config
from .configs.pruned import pruned_changes
from .errors import listed, name_of
from .models.outputs import raw_outputs
from .models.pruned import layout_of
from .supernet.building import look_at, whole_costs


@dataclass(frozen=True)
class Transferred:
    """What :func:`transfer` gives."""

    config: Config  # the new one
    subnet: Subnet  # the widths of the whole new model
    full: Mapping[str, int]  # its resources at full width
    weights: str  # where its weights come from and what starts at random, for people
    kept: tuple[str, ...]  # units of its backbone that the subnet's model lacks: full width
    frozen: bool  # whether the layers that the old config freezes stay so


def transfer(
    config: str | os.PathLike | Config,
    subnet: str | os.PathLike | Mapping[str, Any],
    checkpoint: str | os.PathLike | None = None,
    out: str | os.PathLike = 'transferred.py',
) -> Transferred:
    """Write the config of a model whose backbone has the widths of a searched one.

    The new config inherits from the old one. Layers of both backbones are matched by their names.
    What reads the backbone (a neck, a head) loses the inputs that are gone; all else keeps its
    width. Nothing is frozen, unless the weights are the subnet's own, with their statistics.

    Args:
        config: Any config of a detector, segmentor or classifier.
        subnet: The subnet of a model with the same backbone, its file or the file's content.
        checkpoint: Weights: of the subnet's model, retrained or full-width (a supernet's, or public
            ones), or of the new config's own model. All that fits is used, and nothing else loads
            weights over it. They are written beside the new config, as ``NAME.start.pth``.
        out: The config file to write.

    Raises:
        ConfigError: If the config cannot be read, or its model not be built.
        CheckpointError: If the checkpoint cannot be read or fits neither.
        SubnetError: If the subnet cannot be read.
        UserError: If the backbone is another one than the subnet's, or the model cannot be watched.

    Examples:
        >>> import mmpse
        >>> classifier = mmpse.build('mmpretrain::resnet/resnet18_8xb32_in1k.py')
        >>> half = mmpse.units(classifier).space().uniform(0.5)
        >>> made = mmpse.transfer('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', half)
        >>> made.subnet['backbone.layer1.0.conv1']
        32
    """
    cfg, subnet, out = load_config(config), Subnet.load(subnet), Path(out)
    model = build_model(cfg)
    model.eval()
    layout, images, shape = look_at(model, cfg)
    widths, kept_units, new = _widths(model, layout, subnet, name_of(cfg))
    space = layout.space(model=type(model).__name__)
    costs = whole_costs(model, layout, space, shape)

    def resources(widths: Mapping[str, int]) -> dict[str, Any]:
        row = space.array([widths])
        found = {name: int(cost.exact(row)[0]) for name, cost in costs.items()}
        return dict(found, input_shape=list(shape))

    name = base_name(cfg.filename) if cfg.filename else type(model).__name__
    source = dict(config=name, subnet=subnet.path, of=subnet.source)
    made = Subnet(widths, space.backbone, resources(widths), source)
    try:
        check_cut(model, layout, made, images, raw_outputs)
    except CutError as error:  # of groups, for instance
        raise UserError(f'{name_of(cfg)} cannot have these widths: {error}') from error
    said, trained, report = 'random', False, None
    if checkpoint is not None:
        model, report, trained = load_cut(model, layout, made, checkpoint, new)
        said = str(report)
    changes = pruned_changes(cfg, made, thaw=not trained, statistics=True)
    start = out.with_suffix('.start.pth')
    if report is not None:
        changes['load_from'] = str(start)
    comment = (
        f'{name} with the backbone of {subnet.path or "a subnet"}, written by mmpse transfer. '
        f'Weights: {said}.'
    )
    written = write_config(out, config, changes, comment)
    if report is not None:
        save_checkpoint(start, model, without=report.random)
    return Transferred(written, made, resources(space.fullnet), said, tuple(kept_units), trained)


# Widths


class _Output(NamedTuple):
    """The output channels of a layer of the subnet's model."""

    positions: int
    kept: list[int]
    mixes: bool  # it is no normalisation, whose name tells its type


def _widths(
    model: nn.Module, layout: Layout, subnet: Subnet, config: str
) -> tuple[dict[str, int], list[str], list[str]]:
    """Unit of a model -> its width in the subnet; units and layers of its backbone that are new."""
    state = model.state_dict()
    root = backbone_root(state)
    if not root:
        raise UserError(
            f'{config}: {type(model).__name__} has no backbone; give the config of a detector, '
            'segmentor or classifier'
        )
    theirs, ours = _outputs(subnet), _shared_names(state, root)
    _check_same(theirs, ours, layout, f'{config} has another backbone than {_name(subnet)}')
    found: dict[str, dict[int, str]] = {}  # unit -> width -> a layer that has it in the subnet
    for name, sides in layout.layers.items():
        output = theirs.get(ours.get(name, ''))
        if output is None:
            continue
        at = 0
        for segment in sides.outputs:
            end = at + segment.positions
            inside = [position - at for position in output.kept if at <= position < end]
            at = end
            if segment.unit is None:
                continue
            width, rest = divmod(len(inside), segment.repeat)
            if rest or inside != list(range(len(inside))):
                raise UserError(
                    f'{config}: {_name(subnet)} keeps other channels of {name} than the first ones '
                    f'of the unit {segment.unit}, which this model cannot have'
                )
            found.setdefault(segment.unit, {}).setdefault(width, name)
        if at != output.positions:
            raise UserError(
                f'{config} has another backbone than {_name(subnet)}: {name} has {at} channels '
                f'instead of {output.positions}; give a subnet that was searched on this one'
            )
    for unit, layers in found.items():
        if len(layers) > 1:
            said = ', '.join(f'{width} to {layer}' for width, layer in layers.items())
            raise UserError(
                f'{config}: the layers of the unit {unit} must be of one width, but '
                f'{_name(subnet)} gives {said}; give a subnet in which they are'
            )
    widths = {name: unit.width for name, unit in layout.units.items()}
    widths.update({unit: next(iter(layers)) for unit, layers in found.items()})
    full = [unit for unit in layout.units if unit.startswith(root) and unit not in found]
    return widths, full, [name for name, shared in ours.items() if shared not in theirs]


def _outputs(subnet: Subnet) -> dict[str, _Output]:
    """Layer of the backbone, by its shared name -> its outputs, of those that units run through."""
    layers = layout_of(subnet).layers
    names = {f'{name}.weight': torch.empty(0) for name in layers}
    root = backbone_root(names)
    outputs = {}
    for name, shared in _shared_names(names, root).items():
        inputs, side = layers[name]
        keep = kept(side, subnet)
        numbers = list(range(keep) if isinstance(keep, int) else keep.tolist())
        positions = sum(segment.positions for segment in side)
        outputs[shared] = _Output(positions, numbers, inputs is not None)
    return outputs


def _shared_names(state: Mapping[str, Tensor], root: str) -> dict[str, str]:
    """Layer of a backbone -> its name there, which is mmpretrain's if that is known.

    mmdet and mmseg name the layers of some backbones otherwise.
    """
    inside = {key: value for key, value in state.items() if key.startswith(root)}
    try:
        public, _ = to_mmpretrain({key[len(root) :]: v for key, v in inside.items()})
    except ValueError:  # they look like another library's, and are not
        public = {}
    keys = {id(value): key.removeprefix('backbone.') for key, value in public.items()}
    return {
        key.rpartition('.')[0]: keys.get(id(value), key[len(root) :]).rpartition('.')[0]
        for key, value in inside.items()
    }


def _check_same(
    theirs: Mapping[str, _Output], ours: Mapping[str, str], layout: Layout, other: str
) -> None:
    """
    Raises:
        UserError: If two backbones have not the same blocks. A whole stage may be absent, and
            blocks may have more layers.
    """
    have = set(ours.values())
    stages = {name.partition('.')[0] for name in have}
    absent = [
        name
        for name, output in theirs.items()
        if output.mixes and name not in have and name.partition('.')[0] in stages
    ]
    blocks = set(map(_block, theirs))
    rows = {block[:-1] for block in blocks if block}
    more = [
        name
        for name, shared in ours.items()
        if name in layout.layers and _block(shared) not in blocks and _block(shared)[:-1] in rows
    ]
    lists = [f'it lacks {listed(absent, 3)}'] * bool(absent)
    lists += [f'it has {listed(more, 3)}'] * bool(more)
    if not have & theirs.keys():
        lists = [f'no layer is in both; it has {listed(ours, 3)} instead of {listed(theirs, 3)}']
    if lists:
        raise UserError(f'{other}: {"; ".join(lists)}; give a subnet that was searched on this one')


def _block(name: str) -> tuple[str, ...]:
    """The path of the numbered block that a layer is in: ``('layer1', '0')``; else empty."""
    parts = name.split('.')
    end = next((k for k, part in enumerate(parts, 1) if part.isdigit()), 0)
    return tuple(parts[:end])


def _name(subnet: Subnet) -> str:
    return f'the subnet {subnet.path}' if subnet.path else 'the subnet'
