"""From a module to ONNX, part by part, and parts joined by the names of what goes between them."""

from __future__ import annotations

import inspect
import re
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from mmpse.errors import UserError, is_bug
from mmpse.openmmlab import compat

AXES = {0: 'batch', 2: 'height', 3: 'width'}  # that may be free, of (B, C, H, W)
PATIENCE = 120  # seconds of the processor in which free sizes must be traced: in windows of Swin
# every size follows from others, and PyTorch takes too long to simplify them
TRANSLATIONS: dict[Any, Callable] = {}  # own operator -> its ONNX; who defines one adds it here


class ExportError(UserError):
    """A model that cannot be exported, or that comes out differently."""


@torch.no_grad()
def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    free: Sequence[str] = (),
    model: nn.Module | None = None,
) -> Any:
    """A module as an ``onnx.ModelProto``: everything that mmpse exports goes through here.

    Args:
        module: Its forward takes the inputs in their order and gives a tuple of tensors.
        inputs: Name -> example, ``(B, C, H, W)``. A size of 1 on a free axis would be written into
            the file: give larger ones.
        outputs: Names of the outputs.
        free: Which of ``'batch'``, ``'height'`` and ``'width'`` are free, of all inputs.
        model: The model whose layers are named in errors.

    Raises:
        ExportError: If an axis cannot be free, or PyTorch cannot export the module.
    """
    model = model or module
    axes = {axis: name for axis, name in AXES.items() if name in free}
    examples = tuple(inputs.values())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            program, fixing = _traced(module, examples, axes)
        except Exception as error:  # the model's own code runs in it, and raises what it does
            if is_bug(error):
                raise
            raise ExportError(
                f'PyTorch cannot trace {type(model).__name__}: {where(error, model)}{line(error)}'
            ) from error
        symbols = _symbols(program)
        stuck = {axis: name for axis, name in axes.items() if axis not in symbols[0]}
        if stuck:
            layer = fixing.get(next(iter(stuck)), model)
            name = next((name for name, m in model.named_modules() if m is layer), '')
            what = f'{name} ({type(layer).__name__})' if name else type(model).__name__
            stuck = ' and '.join(stuck.values())
            raise ExportError(f'{stuck} must be constant: {what} computes with it as a number')
        try:
            proto = torch.onnx.export(
                program,
                (),
                input_names=list(inputs),
                output_names=list(outputs),
                custom_translation_table=TRANSLATIONS,
                dynamo=True,
                external_data=False,
                verbose=False,
            ).model_proto
        except Exception as error:  # it raises whatever goes wrong in it
            cause = error
            while cause.__cause__ is not None:  # what it says itself is how to report it
                cause = cause.__cause__
            if is_bug(cause):  # in what writes our own operators
                raise
            found = re.search(r"OpOverload\(op='([\w.]+)'", str(cause))
            what = f'the operator {found[1]}' if found else 'something'
            raise ExportError(
                f'PyTorch has no ONNX for {what} in {type(model).__name__}: {line(cause)}'
            ) from error
    names = {symbol: axes[axis] for axis, symbol in symbols[0].items()}
    _rename_dims(proto, names, next(iter(outputs)))
    return proto


def joined(parts: Mapping[str, Any]) -> Any:
    """One ``onnx.ModelProto`` of several, a part reading what those before it put out, by name.

    Args:
        parts: Name -> ``onnx.ModelProto``. Inside of a part all names get that of the part before
            them, so that they differ; its inputs and outputs keep theirs.
    """
    import onnx.compose  # an optional requirement

    whole = None
    for name, part in parts.items():
        part = onnx.compose.add_prefix(part, f'{name}/', rename_inputs=False, rename_outputs=False)
        part.graph.ClearField('value_info')
        if whole is None:
            whole = part
            continue
        whole.graph.node.extend(part.graph.node)
        whole.graph.initializer.extend(part.graph.initializer)
        whole.graph.ClearField('output')
        whole.graph.output.extend(part.graph.output)
        whole.functions.extend(f for f in part.functions if f not in whole.functions)
        imported = {opset.domain for opset in whole.opset_import}
        whole.opset_import.extend(o for o in part.opset_import if o.domain not in imported)
    return whole


def between(proto: Any, source: str, targets: Sequence[str]) -> Any:
    """The part of an ``onnx.ModelProto`` that computes some of its values from another one.

    Raises:
        ExportError: If they do not follow from it alone.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants = {tensor.name for tensor in proto.graph.initializer}
    needed, open_ends = set(), list(targets)
    while open_ends:
        name = open_ends.pop()
        if name in (source, '') or name in constants or name in needed:
            continue
        if name not in makers:
            raise ExportError(f'{targets[0]} does not follow from {source}: it also needs {name}')
        needed.add(name)
        open_ends.extend(makers[name].input)
    part = type(proto)()
    part.CopyFrom(proto)
    for field in ('node', 'input', 'output', 'value_info'):
        part.graph.ClearField(field)
    part.graph.node.extend(n for n in proto.graph.node if needed & set(n.output))
    part.graph.input.append(_value(source, (None,) * 4))
    part.graph.output.extend(_value(name, None) for name in targets)
    return part


def _value(name: str, shape: Sequence[None] | None) -> Any:
    """A float tensor of any sizes."""
    import onnx  # an optional requirement

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _traced(
    module: nn.Module, examples: tuple[Tensor, ...], axes: Mapping[int, str]
) -> tuple[torch.export.ExportedProgram, dict[int, nn.Module]]:
    """The program of a module, and axis -> the module in whose forward it stopped being free."""

    def free(x: Tensor | tuple[Tensor, ...]) -> Any:
        if isinstance(x, tuple):  # the rest of the arguments is one
            return tuple(map(free, x))
        return {axis: Dim.AUTO for axis in axes if axis < x.ndim}

    begin = time.process_time()
    first: list[Tensor] = []  # the first input, as it is traced
    running: list[nn.Module] = []
    fixing: dict[int, nn.Module] = {}

    def note() -> None:
        for axis in axes:
            if _is_number(first[0].shape[axis]):
                fixing.setdefault(axis, running[-1])

    def before(layer: nn.Module, inputs: Any) -> None:
        if len(axes) > 1 and time.process_time() - begin > PATIENCE:
            raise ExportError(f'its sizes cannot be followed in {PATIENCE} s')
        if running:
            note()
        else:
            first[:] = inputs[:1]
        running.append(layer)

    def after(*_: Any) -> None:
        note()
        running.pop()

    arguments = inspect.signature(module.forward).bind(*examples).arguments.values()
    shapes = tuple(map(free, arguments))
    with ExitStack() as stack:
        for layer in module.modules():
            stack.enter_context(layer.register_forward_pre_hook(before))
            stack.enter_context(layer.register_forward_hook(after))
        stack.enter_context(compat.sizes_stay_symbols())
        return torch.export.export(module, examples, dynamic_shapes=shapes, strict=False), fixing


def _symbols(program: torch.export.ExportedProgram) -> list[dict[int, str]]:
    """Axis -> symbol of the axes that are free in the program, of every input."""
    names = program.graph_signature.user_inputs
    nodes = [n for n in program.graph.nodes if n.op == 'placeholder' and n.name in names]
    return [
        {k: str(n) for k, n in enumerate(node.meta['val'].shape) if not _is_number(n)}
        for node in nodes
    ]


def _is_number(size: int | torch.SymInt) -> bool:
    """Whether a size is free no longer: PyTorch keeps the symbol of one that became a number."""
    return str(size).isdigit()


def _rename_dims(proto: Any, names: Mapping[str, str], part: str) -> None:
    """Give free axes their names; other symbols get that of the part, since they are its own."""

    def renamed(found: re.Match) -> str:
        return names.get(found[0], f'{part}_{found[0]}')

    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r'\b[a-z]\w*\b', renamed, dim.dim_param)


def where(error: BaseException, model: nn.Module) -> str:
    """The layer of the model in whose forward an error was raised, as ``'name (Type): '``."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ''
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get('self')
        if names.get(id(module)):
            found = f'{names[id(module)]} ({type(module).__name__}): '
    return found


def line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = re.sub(r'\x1b\[[0-9;]*m', '', str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    listed = [line[3:] for line in lines if line.startswith('-- ')]  # OpenVINO: its operators
    lines = listed + [line for line in lines if not line.endswith(':')]
    return (lines or [repr(error)])[0][:300]
