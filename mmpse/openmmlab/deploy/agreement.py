"""Whether an exported network predicts what the model predicts, by the model's own functions."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from mmpse.errors import is_bug
from mmpse.openmmlab.models.outputs import samples_of

from .graph import ExportError, line
from .network import Network, padded_to
from .runtimes import loaded

TOLERANCE = 1e-4  # of the largest value of a raw output
PIXELS, SCORES = 0.5, 1e-3  # by which boxes and scores may differ
ENOUGH = 100  # boxes to compare, where noise has none above the threshold, or more than count


class Agreement:
    """Compares files with a network's model, and keeps the largest differences in :attr:`found`."""

    def __init__(self, network: Network, runtimes: Sequence[str]) -> None:
        self.network, self.runtimes = network, runtimes
        self.found: dict[str, Any] = dict(images=[])

    @torch.no_grad()
    def check(self, proto: Any, images: Tensor) -> None:
        """Compare on images ``(B, C, H, W)``.

        Raises:
            ExportError: If a runtime cannot run the file, or predicts something else.
        """
        compared = self._raw
        if self.network.after is not None:
            compared = self._boxes if self.network.kind == 'detector' else self._classes
        for runtime in self.runtimes:
            try:
                compared(proto, images, runtime)
            except ExportError as error:
                raise ExportError(
                    f'{error} ({runtime}, images of {tuple(images.shape)})'
                ) from error
        self.found['images'].append(tuple(images.shape))

    def _note(self, **differences: float) -> None:
        for name, value in differences.items():
            self.found[name] = max(self.found.get(name, 0), value)

    def _raw(self, proto: Any, images: Tensor, runtime: str) -> None:
        inputs, _ = prepared_batch(self.network, images)
        expected = self.network.raw.named(self.network.model(inputs))
        self._note(raw=compare(expected, _run(proto, images, runtime)))

    def _classes(self, proto: Any, images: Tensor, runtime: str) -> None:
        inputs, samples = prepared_batch(self.network, images)
        labels = _run(proto, images, runtime)['labels']
        predicted = self.network.model.predict(inputs, samples)
        differ = 0
        for sample, found in zip(predicted, labels, strict=True):
            logits = sample.seg_logits.data
            if sample.pred_sem_seg.data[0].shape != found.shape:
                raise ExportError(
                    f'labels are of {tuple(found.shape)}, predicted are '
                    f'{tuple(sample.pred_sem_seg.data[0].shape)}'
                )
            other = sample.pred_sem_seg.data[0] != found
            differ += int(other.sum())
            if len(logits) == 1:  # probabilities, against a threshold
                margin = (logits[0] - self.network.after.threshold).abs()
            else:
                margin = logits.amax(0) - logits.gather(0, found[None])[0]
            if not (margin[other] <= TOLERANCE * logits.abs().max()).all():
                raise ExportError(
                    f'the exported model computes something else: {int(other.sum())} of '
                    f'{other.numel()} pixels have another class'
                )
        self._note(pixels_of_equal_logits=differ)

    def _boxes(self, proto: Any, images: Tensor, runtime: str) -> None:
        network, head = self.network, self.network.model.bbox_head
        inputs, samples = prepared_batch(network, images)
        suppressed = network.after.nms is not None
        threshold = float(network.after.score_threshold)
        outputs = network.model(inputs)
        metas = [sample.metainfo for sample in samples]

        def candidates(threshold: float) -> list:
            return head.predict_by_feat(
                *outputs,
                batch_img_metas=metas,
                cfg=ConfigDict(head.test_cfg, score_thr=threshold),
                with_nms=False,
            )

        numbers = [len(boxes) for boxes in candidates(threshold)]
        if not any(numbers) or max(numbers) >= head.test_cfg.get('nms_pre', math.inf):
            # none, or so many that rounding decides which of equal ones is still a candidate
            scores = torch.cat([boxes.scores for boxes in candidates(0.0)])
            threshold = float(scores.sort(descending=True)[0][: ENOUGH + 1][-1])
            proto = _with_threshold(proto, threshold)
            self.found['score_threshold'] = threshold
        if suppressed:
            own, head.test_cfg = head.test_cfg, ConfigDict(head.test_cfg, score_thr=threshold)
            try:
                samples = network.model.predict(inputs, samples, rescale=False)
            finally:
                head.test_cfg = own
            expected = [sample.pred_instances for sample in samples]
        else:
            expected = candidates(threshold)
        found = _run(proto, images, runtime)
        limit = network.after.nms['limit'] if suppressed else None
        for k, boxes in enumerate(expected):
            there = found['scores'][k] > 0
            one = {name: values[k][there] for name, values in found.items()}
            self._note(**compare_boxes(boxes, one, threshold, limit))


def prepared_batch(network: Network, images: Tensor) -> tuple[Tensor, list | None]:
    """What the model gets for ``images``, made by its own data preprocessor, and its samples."""
    samples = samples_of(images)
    if network.before is None:
        return images, samples
    raw = list(images.flip(1))  # pipelines load BGR
    preprocessor = copy.copy(network.model.data_preprocessor)
    if network.divisor != padded_to(network.model):
        preprocessor.pad_size_divisor = network.divisor
        preprocessor.test_cfg = dict(size_divisor=network.divisor)  # mmseg's name for it
    data = preprocessor(dict(inputs=raw, data_samples=samples), False)
    return data['inputs'], data['data_samples']


def compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """The largest difference of raw outputs, as a share of an output's largest value.

    Raises:
        ExportError: If it is more than the tolerance; the worst output is named.
    """
    for name, value in expected.items():
        if got[name].shape != value.shape:
            raise ExportError(
                f'the exported model computes something else: {name} is of '
                f'{tuple(got[name].shape)}, expected {tuple(value.shape)}'
            )
    errors = {
        name: float((got[name] - value.cpu()).abs().max() / value.abs().max().clamp(min=1e-12))
        for name, value in expected.items()
    }
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))
    if not errors[worst] <= TOLERANCE:  # NaN too
        raise ExportError(
            f'the exported model computes something else: {worst} differs by {errors[worst]:.1e} '
            f'of its largest value, allowed are {TOLERANCE:.0e}'
        )
    return errors[worst]


def compare_boxes(
    expected: Any, got: Mapping[str, Tensor], threshold: float, limit: int | None = None
) -> dict[str, float]:
    """The largest differences of boxes and scores of one image.

    Every box must have its counterpart of the same label, both ways. Only one whose score is within
    the tolerance of where the other list ends may be missing, since there rounding decides: at the
    threshold, or at the last of ``limit`` boxes.

    Raises:
        ExportError: If one has none.
    """
    sides = [
        (expected.bboxes.cpu(), expected.scores.cpu(), expected.labels.cpu()),
        (got['boxes'], got['scores'], got['labels']),
    ]
    worst = dict(boxes=len(sides[0][0]), box_difference=0.0, score_difference=0.0)
    for (boxes, scores, labels), (others, their_scores, their_labels) in (sides, sides[::-1]):
        apart = (boxes[:, None] - others).abs().amax(-1)
        scored = (scores[:, None] - their_scores).abs()
        fits = (apart <= PIXELS) & (scored <= SCORES) & (labels[:, None] == their_labels)
        end = float(their_scores.min()) if limit and len(others) >= limit else threshold
        lonely = ~fits.any(1) & (scores > end + SCORES)
        if lonely.any():
            k = int(lonely.nonzero()[0])
            raise ExportError(
                f'the exported model predicts something else: {int(lonely.sum())} of {len(boxes)} '
                f'boxes differ by more than {PIXELS} pixels or {SCORES} in score, e.g. '
                f'{[round(x, 1) for x in boxes[k].tolist()]} of class {int(labels[k])} with '
                f'{float(scores[k]):.4f}'
            )
        if fits.any():
            nearest = torch.where(fits, apart, torch.inf).argmin(1, keepdim=True)
            matched = fits.any(1)
            for name, value in (('box_difference', apart), ('score_difference', scored)):
                largest = float(value.gather(1, nearest)[matched].max())
                worst[name] = max(worst[name], largest)
    return worst


def _with_threshold(proto: Any, threshold: float) -> Any:
    """A copy of an ONNX model with another score threshold."""
    import onnx.numpy_helper

    changed = type(proto)()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name.endswith('score_threshold'):
            value = torch.tensor(threshold, dtype=torch.float32).numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
            return changed
    raise ExportError('the exported model has no score threshold')


def _run(proto: Any, images: Tensor, runtime: str) -> dict[str, Tensor]:
    """The outputs of an ONNX model by name."""
    batch = images.cpu().numpy()
    try:
        values = loaded(proto, runtime)(batch)
    except Exception as error:  # the runtime's own kinds, many of them
        if is_bug(error):
            raise
        raise ExportError(f'the exported model does not run: {line(error)}') from error
    return {name: torch.from_numpy(value.copy()) for name, value in values.items()}
