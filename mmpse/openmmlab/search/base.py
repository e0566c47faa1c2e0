"""What all searches of a trained supernet share: judging, and keeping what was judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.runner import BaseLoop, CheckpointLoader, Runner, set_random_seed
from torch import nn
from torch.utils.data import DataLoader

from mmpse.files import write_json
from mmpse.models import LatencyTable, costs_of, find_backbone, is_channels_last, model_costs
from mmpse.openmmlab import compat
from mmpse.openmmlab.supernet.checkpoint import check_weights, file_digest
from mmpse.openmmlab.supernet.cudnn import stop_tuning
from mmpse.space import Budget, Subnet, UniformSampler

from .archive import Archive, ArchiveError, Judged, ranking_key, read_identity
from .judge import Judge, Verdict, calibration_batches
from .parallel import gather, on_main
from .progress import Clock, search_progress

Widths = tuple[int, ...]
Candidate = tuple[str, Widths]  # its origin, and its widths in the order of the space

FIRST_FEW = 5  # new subnets after which the whole time is announced


class SearchLoop(BaseLoop):
    """Base of the searches: a search is the ``train_cfg`` of a config.

    The config names the supernet's checkpoint in ``load_from``; its ``val_dataloader`` and
    ``val_evaluator`` judge the candidates, on a split that is held out of the training set, in
    mixed precision with ``val_cfg=dict(fp16=True)``. A search says what to judge next
    (:meth:`propose`) and how much in all (:attr:`max_iters`); the base judges it, in as many
    processes as MMEngine's launcher started, writes every judged subnet into the archive
    ``work_dir/archive.db`` before the next one is judged, and after every generation writes
    ``best_subnet.json`` and ``topk.json``. The best is the one of the highest score within the
    budget; of equals, that of the lowest mean loss (classifiers), then the cheapest.

    What a search proposes depends on its settings, the seed and the scores alone. So a killed
    search goes on with ``--resume`` to the same result, and any number of processes give the same.

    Args:
        runner: The runner.
        dataloader: The config's ``train_dataloader``; BatchNorm is recalibrated on its images.
        budget: Resources and their limits: ``dict(flops='300M')``, ``dict(flops='50%')``,
            ``dict(flops='300M', latency='5ms')``; see :class:`mmpse.space.Budget`. They count the
            whole model, head included; FLOPs are multiply-adds.
        input_shape: Shape ``(C, H, W)`` of one image, for counting FLOPs.
        metric: The score, a metric of the ``val_evaluator``; higher is better.
        window: Candidates cost ``(1 - window)`` to 1 times the (first) limit.
        calibration: Training batches on which each candidate is recalibrated.
        archive: File to keep the judged subnets in, instead of the work dir's. If it is that of an
            earlier search of the same supernet, what was judged there is not judged again.
        topk: Subnets in ``topk.json``.
        latency_table: File of a :class:`mmpse.models.LatencyTable`, for a budget of latency.
        latency_device: Name of the device that the table is of, if not this one.

    Raises:
        BudgetError: At the start, if no subnet can meet the budget.
        ArchiveError: If the archive is damaged, full, or of another supernet.
        ValueError: At the start, if ``load_from`` or the validation data is missing.
        FileNotFoundError: At the start, if there is no such checkpoint.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        budget: Mapping[str, str | float],
        input_shape: Sequence[int],
        metric: str,
        window: float = 0.05,
        calibration: int = 8,
        archive: str | None = None,
        topk: int = 10,
        latency_table: str | None = None,
        latency_device: str | None = None,
    ) -> None:
        self.archive_path = Path(archive or Path(runner.work_dir) / 'archive.db')
        if compat.randomness(runner).get('seed') is None and self.archive_path.exists():
            # scores depend on it, and MMEngine drew another one; what is amiss shows when it opens
            with suppress(ArchiveError, KeyError):
                seed = read_identity(self.archive_path)['seed']
                runner.set_randomness(**{**compat.randomness(runner), 'seed': seed})
        with compat.alone():
            super().__init__(runner, dataloader)
            validation = runner.val_loop
        if compat.load_path(runner) is None:
            raise ValueError(
                'a search needs the checkpoint of a trained supernet: set load_from, e.g. '
                '--cfg-options load_from=work_dirs/supernet/epoch_50.pth'
            )
        if '://' not in compat.load_path(runner) and not Path(compat.load_path(runner)).is_file():
            raise FileNotFoundError(
                f'there is no supernet checkpoint {compat.load_path(runner)} (load_from): train '
                'the supernet first, with tools/train.py and its config, or give the path of '
                'another checkpoint with --cfg-options load_from=...'
            )
        if validation is None:
            raise ValueError(
                'a search judges subnets with val_dataloader, val_evaluator and val_cfg; the '
                'config has none'
            )
        self.input_shape = tuple(input_shape)
        self.metric = metric
        self.fp16 = getattr(validation, 'fp16', False)
        self.calibration = calibration
        self.own_archive = archive is None
        self.topk = topk
        self.seed = runner.seed
        # Resuming is the archive's affair; the runner's would restore the supernet's optimizer.
        self.resume = compat.take_over_resuming(runner)
        # before anything is loaded, so that an unreachable budget fails at once
        self.space = find_backbone(runner.model).search_space
        self.model_cfg = runner.cfg.model.to_dict()
        if runner.cfg.get('data_preprocessor') is not None:  # the runner hands it to the model
            self.model_cfg.setdefault('data_preprocessor', runner.cfg.data_preprocessor.to_dict())
        self.costs = model_costs(self.model_cfg, self.input_shape)
        if latency_table is not None:
            table = LatencyTable(self.model_cfg, self.input_shape, latency_table, latency_device)
            self.costs['latency'] = table.cost()
        self.budget = Budget(self.space, self.costs, budget, window)
        self.history: dict[Widths, Judged] = {}

    epoch = property(lambda self: 0)
    iter = property(lambda self: len(self.history))
    max_epochs = property(lambda self: 1)

    @property
    @abstractmethod
    def max_iters(self) -> int:
        """Subnets to judge; an estimate, where that depends on the scores."""

    @abstractmethod
    def propose(self, generation: int) -> list[Candidate]:
        """The candidates to judge next, none of them in ``self.history``; none ends the search."""

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        """Make what :meth:`propose` needs of the supernet's checkpoint."""

    def within(self, widths: np.ndarray) -> np.ndarray:
        """Which of the subnets ``(subnets, units)`` may win, bool ``(subnets,)``."""
        return self.budget.contains(widths)

    def run(self) -> Subnet:
        """Search; returns the best subnet."""
        runner, logger = self.runner, self.runner.logger
        stop_tuning(runner, 'every subnet has other widths')
        checkpoint = CheckpointLoader.load_checkpoint(compat.load_path(runner), map_location='cpu')
        check_weights(runner.model, checkpoint['state_dict'], compat.load_path(runner))
        self.identity = self._identity()
        self._open_archive()
        self.prepare(checkpoint)
        self._announce()
        # so that the calibration images do not depend on what was drawn before
        set_random_seed(self.seed)
        self.judge = Judge(
            self.model_cfg,
            checkpoint['state_dict'],
            calibration_batches(self.dataloader, self.calibration),
            runner.val_loop.dataloader,
            runner.val_loop.evaluator,
            self.metric,
            memory_format_of(runner.model),
            self.fp16,
        )
        generation, done, clock = 0, 0, Clock()
        with search_progress(self.max_iters) as advance:
            while candidates := self.propose(generation):
                for new in self._judge(generation, candidates):
                    done, clock.new = done + 1, clock.new + new
                    advance(f'generation {generation + 1}')
                    if new and clock.new == FIRST_FEW:
                        logger.info(clock.text(max(self.max_iters - done, 0)))
                rows = [self.archived[widths] for _, widths in candidates]
                self.history.update((row.widths, row) for row in rows)
                scores = np.array([row.score for row in rows])
                finite = scores[np.isfinite(scores)]
                if not generation and not len(finite):
                    raise FloatingPointError(
                        f'{self.metric} is not a number for any of the first {len(rows)} subnets, '
                        f'e.g. {self.space.subnet(rows[0].widths)}; is the supernet '
                        f'{compat.load_path(runner)} trained?'
                    )
                ranked = self.ranked()
                on_main(lambda ranked=ranked: self.write(ranked))
                best = f'{ranked[0].score:.4f}' if ranked else 'none within the budget yet'
                logger.info(
                    f'generation {generation + 1}: {done} judged, {self.metric} best {best}, mean '
                    f'of the generation {finite.mean() if len(finite) else np.nan:.4f}; '
                    f'{clock.text(max(self.max_iters - done, 0))}'
                )
                generation += 1
        best = self.describe(self.ranked()[0])
        logger.info(
            f'best subnet: {self.metric} {best.source["score"]:.4f}, {best.resources} -> '
            f'{Path(runner.work_dir) / "best_subnet.json"}'
        )
        return best

    def ranked(self) -> list[Judged]:
        """The judged subnets within the budget, best first."""
        if not self.history:
            return []
        rows = list(self.history.values())
        inside = self.within(np.array([row.widths for row in rows]))
        return sorted((row for row, fits in zip(rows, inside) if fits), key=ranking_key)

    def write(self, ranked: Sequence[Judged]) -> None:
        """Write the search's results so far into the work dir."""
        if ranked:
            work_dir = Path(self.runner.work_dir)
            self.describe(ranked[0]).save(work_dir / 'best_subnet.json')
            self.write_subnets(ranked[: self.topk], 'topk.json')

    def write_subnets(self, rows: Sequence[Judged], name: str) -> None:
        """Write a list of subnets, each as in its own file, into the work dir."""
        content = [self.describe(row).to_dict() for row in rows]
        write_json(Path(self.runner.work_dir) / name, content)

    def describe(self, row: Judged) -> Subnet:
        """A judged subnet with its cost and where it came from."""
        return self.space.subnet(
            row.widths,
            resources=dict(row.resources, input_shape=list(self.input_shape)),
            source=dict(
                config=self.runner.cfg.filename,
                checkpoint=str(compat.load_path(self.runner)),
                checkpoint_sha256=self.identity['checkpoint_sha256'],
                metric=self.metric,
                score=row.score,
                loss=row.loss,
                seed=self.seed,
            ),
        )

    def _judge(self, generation: int, candidates: Sequence[Candidate]) -> Iterator[bool]:
        """Judge the candidates that the archive lacks; yields for each whether it was lacking.

        Each process judges one at a time; what they give is on disk before the next ones begin.
        """
        world, rank = dist.get_world_size(), dist.get_rank()
        new = [(origin, widths) for origin, widths in candidates if widths not in self.archived]
        yield from [False] * (len(candidates) - len(new))
        for start in range(0, len(new), world):
            wave = new[start : start + world]

            def verdict(wave: Sequence[Candidate] = wave) -> Verdict | None:
                if rank >= len(wave):
                    return None
                with compat.alone():
                    return self.judge(self.space.subnet(wave[rank][1]))

            rows = []
            for (origin, widths), (score, loss) in zip(wave, gather(verdict)):
                subnet = self.space.subnet(widths)
                cost = costs_of(self.space, self.costs, subnet)
                rows.append(Judged(self.number, generation, origin, widths, score, loss, cost))
                if not np.isfinite(score):
                    self.runner.logger.warning(
                        f'{self.metric} is not a number for {subnet}: it ranks last.'
                    )
            on_main(lambda rows=rows: self.archive.add(rows))
            self.archived.update((row.widths, row) for row in rows)
            yield from [True] * len(rows)

    def _identity(self) -> dict[str, Any]:
        """What scores depend on, and so an archive is bound to; the budget is not among it."""
        return dict(
            space=self.space.backbone,
            units=[[unit.name, unit.max_width] for unit in self.space.units],
            checkpoint_sha256=file_digest(compat.load_path(self.runner)),
            metric=self.metric,
            calibration=self.calibration,
            calibration_batch_size=getattr(self.dataloader.batch_sampler, 'batch_size', None),
            calibration_dataset=self.runner.cfg.train_dataloader.dataset.to_dict(),
            seed=self.seed,
            fp16=self.fp16,
            dataset=self.runner.cfg.val_dataloader.dataset.to_dict(),
            evaluator=self.runner.cfg.val_evaluator,
            model=without_weights(self.model_cfg),
            input_shape=self.input_shape,
        )

    def _open_archive(self) -> None:

        def opened() -> tuple[int, list[Judged], list[Judged]]:
            path = self.archive_path
            if path.exists() and not self.resume and self.own_archive:
                raise ArchiveError(
                    f'{path} holds the subnets of an earlier search; give --resume to go on with '
                    'it, or choose another work_dir (with train_cfg.archive set to this file to '
                    'use what it holds)'
                )
            self.archive = Archive(path, self.identity)
            return *self.archive.begin(self._settings()), self.archive.rows()

        # `known` is what was judged before this search first began
        self.number, self.known, rows = on_main(opened)
        self.archived = {row.widths: row for row in rows}

    def _settings(self) -> dict[str, Any]:
        """What makes this search another one than those in the same archive."""
        settings = self.runner.cfg.train_cfg.to_dict()
        for key in ('archive', 'topk', 'generations'):  # these only end it earlier or later
            settings.pop(key, None)
        return settings

    def _announce(self) -> None:
        space, budget, logger = self.space, self.budget, self.runner.logger
        logger.info(f'search space: {len(space)} units, {space.size:.3g} subnets.')
        drawn = UniformSampler(space, budget.cost).sample(np.random.default_rng(0), 1000)
        for name in (budget.resource, *budget.others):
            cost = self.costs[name]
            tiny, full = cost(space.array([space.tinynet, space.fullnet]))
            logger.info(
                f'{name}: {tiny:,} (tinynet), {int(np.median(cost(drawn))):,} (median of random '
                f'subnets), {full:,} (fullnet).'
            )
        logger.info(f'the budget can be met: {budget}.')
        reused = ', which are not judged again' if self.archived else ''
        if self.history:
            reused += f'; {len(self.history):,} of an earlier search are within the budget'
        logger.info(
            f'{type(self).__name__}: {self.max_iters:,} subnets to judge in '
            f'{dist.get_world_size()} processes; the archive holds {len(self.archived):,}{reused}.'
        )


def without_weights(config: Any) -> Any:
    """A model's config but for what names its first weights."""
    if isinstance(config, Mapping):
        names = 'init_cfg', 'pretrained'
        return {k: without_weights(v) for k, v in config.items() if k not in names}
    return [*map(without_weights, config)] if isinstance(config, (list, tuple)) else config


def memory_format_of(model: nn.Module) -> torch.memory_format:
    """The layout of a model's weights: channels_last if those of one layer are."""
    weights = (p for p in model.parameters() if p.dim() == 4)
    return torch.channels_last if any(map(is_channels_last, weights)) else torch.contiguous_format
