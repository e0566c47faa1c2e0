"""What of a config a supernet cannot be trained with, found before the first iteration."""

from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner

from mmpse.errors import UserError
from mmpse.openmmlab import compat


def check_batches(runner: Runner, n: int, serial: bool) -> None:
    """
    Raises:
        UserError: If processes run different numbers of batches, or a batch that ``n`` subnets
            are to share is no multiple of it.
    """
    batches = runner.train_dataloader.batch_sampler  # DataLoader's own, or the config's
    batch_size = getattr(batches, 'batch_size', None)
    sampler = getattr(batches, 'sampler', None)
    drop_last = getattr(batches, 'drop_last', False)
    infinite = isinstance(sampler, InfiniteSampler)
    if not infinite and dist.get_world_size() > 1:
        counts = dist.all_gather_object(len(runner.train_dataloader))
        if len(set(counts)) > 1:
            raise UserError(
                f'SupernetHook: the processes would run {counts} batches, and those that run '
                'more would wait for ever; set train_dataloader.sampler.round_up=True'
            )
    if batch_size is None or sampler is None or serial:
        return  # batches of a sampler's own making: checked one by one, by the supernet
    sizes = {batch_size}
    if not drop_last and not infinite:
        sizes.add(len(sampler) % batch_size or batch_size)
    for size in sizes:
        if size % n:
            raise UserError(
                f'SupernetHook: n={n} subnets cannot share a batch of {size} images (batch size '
                f'{batch_size}, drop_last={drop_last}); set train_dataloader.batch_size to a '
                'multiple of n and train_dataloader.drop_last=True (of a batch_sampler: '
                'train_dataloader.batch_sampler.drop_last)'
            )


def check_no_validation(runner: Runner) -> None:
    """Raise a UserError if the config validates."""
    if runner.val_loop is not None:
        raise UserError(
            'SupernetHook: the config validates, but a supernet has no BatchNorm statistics to be '
            'tested with, so that the metrics would mean nothing; set '
            'val_cfg=val_dataloader=val_evaluator=None. A search judges subnets'
        )


def accumulate(runner: Runner, n: int) -> None:
    """Let a pass of each of ``n`` subnets count as a step of gradient accumulation.

    Raises:
        UserError: If the optimizer wrapper does not accumulate over a multiple of them.
    """
    counts = compat.accumulative_counts(runner.optim_wrapper)
    if counts % n:
        raise UserError(
            f'SupernetHook: serial=True accumulates the gradients of n={n} subnets before each '
            f'update; set optim_wrapper.accumulative_counts={n} (got {counts})'
        )
    runner.optim_wrapper.initialize_count_status(
        runner.model, runner.iter * n, runner.max_iters * n
    )
