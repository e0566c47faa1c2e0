"""The class of every pixel, as mmseg predicts it."""

from __future__ import annotations

import torch
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from .graph import ExportError


class Argmax(nn.Module):
    """Logits resized to the image and the padding cut off, then the best class.

    Raises:
        ExportError: If the segmentor predicts in another way, or slides a window.
    """

    names = ('labels',)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        head = model.decode_head
        own = [
            f'{type(part).__name__}.{name}'
            for part, base, names in (
                (model, EncoderDecoder, ('predict', 'encode_decode', 'postprocess_result')),
                (head, BaseDecodeHead, ('predict', 'predict_by_feat')),
            )
            for name in names
            if getattr(type(part), name, None) is not getattr(base, name)
        ]
        if own:
            raise ExportError(
                f'cannot put the prediction of {type(model).__name__} into the file: {own[0]} is '
                "not mmseg's common one; export the logits"
            )
        mode = model.test_cfg.get('mode', 'whole')
        if mode != 'whole':
            raise ExportError(
                f'cannot put the prediction of {type(model).__name__} into the file: test_cfg.mode '
                f"is {mode!r}, expected 'whole'; set it, or export the logits and slide outside"
            )
        self.align_corners = model.align_corners
        self.threshold = head.threshold

    def forward(self, images: Tensor, inputs: Tensor, logits: Tensor) -> tuple[Tensor]:
        """``labels`` ``(B, H, W)`` of images, which were padded to what the model got."""
        logits = resize(
            logits,
            size=inputs.shape[-2:],
            mode='bilinear',
            align_corners=self.align_corners,
            warning=False,
        )
        logits = logits[..., : images.shape[-2], : images.shape[-1]]
        if logits.shape[1] == 1:
            return ((logits[:, 0].sigmoid() > self.threshold).to(torch.int64),)
        return (logits.argmax(dim=1),)
