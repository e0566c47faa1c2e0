"""cuDNN's search for the fastest algorithm, where shapes do not stay."""

from __future__ import annotations

import torch
from mmengine.runner import Runner


def stop_tuning(runner: Runner, why: str) -> None:
    """Switch ``cudnn_benchmark`` off, with a line in the log: it tunes every new shape anew.

    Many configs have it on, mmseg's for instance, for models of one shape.
    """
    if torch.backends.cudnn.benchmark:
        torch.backends.cudnn.benchmark = False
        runner.logger.info(
            f'env_cfg.cudnn_benchmark is switched off: {why}, and cuDNN would tune convolutions '
            'for every new shape.'
        )
