"""The training images of a config, which widths are chosen on.

So the validation split measures what came of the choice, and the test split is never touched.
"""

from collections.abc import Mapping

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from mmpse.errors import UserError

from .datasets import last_phase


def all_training(cfg: Config, seed: int = 0) -> ConfigDict:
    """A dataloader of all training images, in a fixed random order.

    They come through the pipeline that training ends with (that is, without Mosaic after YOLOX's
    and RTMDet's switch). Augmentations draw from the workers' random generators, or with
    ``num_workers=0`` from that of the process.

    Args:
        cfg: A config that trains.
        seed: Seed of the order.

    Returns:
        A config that ``Runner.build_dataloader`` can take.

    Raises:
        ValueError: If the config has no training data, or not as the config of a dataset.
    """
    content = cfg.to_dict()  # a copy, with the classes of new-style configs by name
    loader = content.get('train_dataloader')
    if not loader:
        raise UserError(
            'the config has no train_dataloader, but widths are chosen on training images; give '
            'the config that the model was trained by'
        )
    dataset = loader['dataset']
    if not isinstance(dataset, Mapping):
        raise UserError(
            f'train_dataloader.dataset is a {type(dataset).__name__}; give the config of a dataset'
        )
    scope = dataset.get('_scope_') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        dataset = last_phase(dataset, content.get('custom_hooks') or [])
    # data sets are sorted by class, and BatchNorms may take the statistics of batches
    sampler = dict(type='DefaultSampler', shuffle=True, seed=seed)
    loader.pop('num_batch_per_epoch', None)
    return ConfigDict(loader, dataset=dataset, sampler=sampler)
