"""What all searches of a trained supernet share: judging, and keeping what was judged."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import dist
from mmengine.runner import BaseLoop, Runner, set_random_seed
from torch.utils.data import DataLoader

from mmpse.errors import UserError
from mmpse.files import write_json
from mmpse.openmmlab import compat
from mmpse.openmmlab.progress import Clock, search_bar
from mmpse.openmmlab.supernet.speed import stop_tuning
from mmpse.search.archive import Archive, ArchiveError, Judged, ranking_key, read_identity
from mmpse.space import Budget, Subnet, UniformSampler, uniform_within

from .held_out import warn_of_seen_images
from .identity import identity_of, settings_of
from .judge import Judge, Verdict, calibration_batches
from .parallel import on_main, processes, shared
from .trained import latency_of, load_trained

Widths = tuple[int, ...]
Candidate = tuple[str, Widths]  # its origin, and its widths in the order of the space


class SearchLoop(BaseLoop):
    """Base of the searches: a search is the ``train_cfg`` of a config.

    A search says what to judge next (:meth:`propose`) and how much in all (:attr:`max_iters`). The
    base judges it, in as many processes as MMEngine's launcher started, and writes every judged
    subnet into the archive before the next one is judged. The best is the one of the highest score
    within the budget; of equals, that of the lowest mean loss (classifiers), then the cheapest.
    docs/search.md says what is read and written.

    What a search proposes depends on its settings, the seed and the scores alone. So a killed
    search goes on with ``--resume`` to the same result, and any number of processes give the same.

    Args:
        dataloader: The config's ``train_dataloader``; BatchNorm is recalibrated on its images.
        budget: Resources and their limits: ``dict(flops='300M')``, ``dict(flops='50%')``,
            ``dict(flops='300M', latency='5ms')``; see :class:`mmpse.space.Budget`. They count the
            whole model, head included; FLOPs are multiply-adds.
        metric: The score, a metric of the ``val_evaluator``; higher is better.
        input_shape: Shape ``(C, H, W)`` of the image that FLOPs and latency are of; by default that
            of the config's tests.
        window: Candidates cost ``(1 - window)`` to 1 times the (first) limit.
        calibration: Training batches on which each candidate is recalibrated.
        archive: File to keep the judged subnets in, instead of the work dir's. If it is that of an
            earlier search of the same supernet, what was judged there is not judged again.
        topk: Subnets in ``topk.json``.
        latency: For a budget of latency, a file that ``mmpse latency`` wrote, of this device or of
            another one. By default latency is measured here, and kept in ``work_dir/latency.json``.
        runtime: What it is measured in here, see :func:`mmpse.deploy.prepared`.

    Raises:
        BudgetError: At the start, if no subnet can meet the budget.
        ArchiveError: If the archive is damaged, full, or of another supernet.
        UserError: At the start, if ``load_from`` or the validation data is missing, or the file of
            latencies is of something else.
        FileNotFoundError: At the start, if there is no such checkpoint.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        budget: Mapping[str, str | float],
        metric: str,
        input_shape: Sequence[int] | None = None,
        window: float = 0.05,
        calibration: int = 8,
        archive: str | None = None,
        topk: int = 10,
        latency: str | None = None,
        runtime: str = 'torch',
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
        if validation is None:
            raise UserError(
                'a search judges subnets with val_dataloader, val_evaluator and val_cfg; the '
                'config has none'
            )
        self.metric = metric
        self.fp16 = getattr(validation, 'fp16', False)
        self.calibration = calibration
        self.own_archive = archive is None
        self.topk = topk
        self.seed = runner.seed
        runner.param_schedulers = None  # nothing is trained, and a recipe's need its epochs
        # Resuming is the archive's affair; the runner's would restore the supernet's optimizer.
        self.resume = compat.take_over_resuming(runner)
        # before anything is judged, so that an unreachable budget fails at once
        trained = load_trained(runner, input_shape)
        self.checkpoint, self.supernet, self.costs, self.input_shape = trained
        warn_of_seen_images(runner, self.checkpoint)
        self.space = self.supernet.space
        if isinstance(budget, Mapping) and 'latency' in budget:
            self.costs['latency'] = on_main(lambda: latency_of(trained, runner, latency, runtime))
        self.budget = Budget(self.space, self.costs, budget, window)
        self.fullnet = tuple(self.space.fullnet.values())
        self.uniform = tuple(uniform_within(self.space, self.budget).tolist())
        # what candidates are compared with
        named = {self.fullnet: 'fullnet', self.uniform: 'uniform'}
        self.references = [(origin, widths) for widths, origin in named.items()]
        self.limits = dict(budget)
        self.history: dict[Widths, Judged] = {}

    parts = False  # whether subnets are judged part by part, see :class:`Judge`
    epoch = property(lambda self: 0)
    iter = property(lambda self: len(self.history))
    max_epochs = property(lambda self: 1)

    @property
    @abstractmethod
    def max_iters(self) -> int:
        """Subnets that are proposed; an estimate, where that depends on the scores."""

    @abstractmethod
    def propose(self, generation: int) -> list[Candidate]:
        """The candidates to judge next; none ends the search.

        The first generation is 0, when the references are in ``self.history``.
        """

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        """Make what :meth:`propose` needs of the supernet's checkpoint."""

    def within(self, widths: np.ndarray) -> np.ndarray:
        """Which of the subnets ``(subnets, units)`` may win, bool ``(subnets,)``."""
        return self.budget.contains(widths)

    def run(self) -> Subnet:
        """Search; returns the best subnet."""
        runner, logger = self.runner, self.runner.logger
        stop_tuning(runner, 'every subnet has other widths')
        self.supernet.model.load_state_dict(self.checkpoint['state_dict'])
        self.identity = identity_of(
            runner,
            self.space,
            metric=self.metric,
            calibration=self.calibration,
            calibration_batch_size=getattr(self.dataloader.batch_sampler, 'batch_size', None),
            seed=self.seed,
            fp16=self.fp16,
            input_shape=self.input_shape,
        )
        self._open_archive()
        self.prepare(self.checkpoint)
        self._announce()
        # so that the calibration images do not depend on what was drawn before
        set_random_seed(self.seed)
        self.judge = Judge(
            self.supernet.model,
            self.supernet.layout,
            calibration_batches(self.dataloader, self.calibration),
            runner.val_loop.dataloader,
            runner.val_loop.evaluator,
            self.metric,
            self.fp16,
            self.parts,
        )
        self.clock = Clock()
        generation = 0
        with search_bar(self.max_iters + len(self.references)) as advance:
            candidates = self.references
            while candidates:
                self._judge_generation(generation, candidates, advance)
                candidates = self.propose(generation)
                generation += 1
        best = self.describe(self.ranked()[0])
        logger.info(
            f'best subnet: {self.metric} {best.source["score"]:.4f}, {best.resources} -> '
            f'{Path(runner.work_dir) / "best_subnet.json"}'
        )
        return best

    def _judge_generation(
        self, generation: int, candidates: Sequence[Candidate], advance: Callable[[str], None]
    ) -> None:
        """Judge candidates, and say what came of it; the references are generation 0."""
        name = f'generation {generation}' if generation else 'references'
        for new in self._judge(generation, candidates):
            self.clock.new += new
            advance(name)
        rows = [self.archived[widths] for _, widths in candidates]
        scores = np.array([row.score for row in rows])
        finite = scores[np.isfinite(scores)]
        if not generation and not len(finite):
            raise FloatingPointError(
                f'{self.metric} is not a number for the fullnet and for uniform pruning; is the '
                f'supernet {compat.load_path(self.runner)} trained?'
            )
        self.history.update((row.widths, row) for row in rows)
        ranked = self.ranked()
        on_main(lambda: self.write(ranked))
        if generation:
            mean = finite.mean() if len(finite) else np.nan
            said = f'{self.metric} best {ranked[0].score:.4f}, mean of the generation {mean:.4f}'
            self._show(dict(best=ranked[0].score, mean=mean))
        else:
            said = f'{self.metric} ' + ', '.join(
                f'{origin} {row.score:.4f}' for (origin, _), row in zip(candidates, rows)
            )
            self._show({origin: row.score for (origin, _), row in zip(candidates, rows)})
        left = max(self.max_iters + len(self.references) - len(self.history), 0)
        self.runner.logger.info(
            f'{name}: {len(self.history)} judged, {said}; {self.clock.text(left)}'
        )

    def _show(self, scores: Mapping[str, float]) -> None:
        """Give scalars to the visualizer (TensorBoard, ...), by the number of judged subnets."""
        scalars = {f'search/{k}': float(v) for k, v in scores.items() if np.isfinite(v)}
        for name, value in scalars.items():
            self.runner.message_hub.update_scalar(name, value)
        if dist.is_main_process():
            self.runner.visualizer.add_scalars(scalars, step=len(self.history))

    def ranked(self) -> list[Judged]:
        """The judged subnets within the budget, best first; uniform pruning is one of them."""
        if not self.history:
            return []
        rows = list(self.history.values())
        inside = self.within(np.array([row.widths for row in rows]))
        inside |= [row.widths == self.uniform for row in rows]  # it may be below the window
        return sorted((row for row, fits in zip(rows, inside) if fits), key=ranking_key)

    def write(self, ranked: Sequence[Judged]) -> None:
        """Write the results so far into the work dir, and which subnet is best into the archive."""
        self.archive.choose(self.number, ranked[0].widths)
        self.describe(ranked[0]).save(Path(self.runner.work_dir) / 'best_subnet.json')
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
        new = [(origin, widths) for origin, widths in candidates if self._lacks(widths)]
        yield from [False] * (len(candidates) - len(new))

        def judged(candidate: Candidate) -> Verdict:
            with compat.alone():
                return self.judge(self.space.subnet(candidate[1]))

        for wave, verdicts in shared(new, judged):
            rows, completed = [], []
            for (origin, widths), (score, loss, parts) in zip(wave, verdicts, strict=True):
                if widths in self.archived:
                    completed.append(self.archived[widths]._replace(parts=parts))
                    continue
                known = self.number, generation, origin, widths
                rows.append(Judged(*known, score, loss, self._resources(widths), parts))
                if not np.isfinite(score):
                    self.runner.logger.warning(
                        f'{self.metric} is not a number for {self.space.subnet(widths)}: it ranks '
                        'last.'
                    )
            on_main(lambda rows=rows, old=completed: self.archive.add(rows, old))
            self.archived.update((row.widths, row) for row in (*rows, *completed))
            yield from [True] * len(wave)

    def _resources(self, widths: Widths) -> dict[str, int]:
        return {name: int(cost(np.array([widths]))[0]) for name, cost in self.costs.items()}

    def _lacks(self, widths: Widths) -> bool:
        """Whether the archive lacks a subnet, or its parts if they are needed."""
        row = self.archived.get(widths)
        return row is None or (self.judge.parts and row.parts is None)

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
            return *self.archive.begin(settings_of(self.runner.cfg.train_cfg)), self.archive.rows()

        # `known` is what was judged before this search first began
        self.number, *found = on_main(opened)
        # an earlier search may have had no latency, or that of another device
        self.known, rows = (
            [row._replace(resources=self._resources(row.widths)) for row in rows] for rows in found
        )
        self.archived = {row.widths: row for row in rows}

    def _announce(self) -> None:
        space, budget, logger = self.space, self.budget, self.runner.logger
        logger.info(f'search space: {len(space)} units, {space.size:.3g} subnets.')
        drawn = UniformSampler(space, budget.cost).sample(np.random.default_rng(0), 1000)
        for name in budget.limits:
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
            f'{processes()}; the archive holds {len(self.archived):,}{reused}.'
        )
