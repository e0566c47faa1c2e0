"""Two processes share results and errors; without a launcher there is one."""

import pytest
import torch
from gloo import join
from mmengine import dist
from torch import multiprocessing

from mmpse.errors import UserError
from mmpse.openmmlab import compat
from mmpse.openmmlab.search.parallel import gather, on_main


def test_one_process_needs_no_launcher():
    assert gather(lambda: 3) == [3] and on_main(lambda: 4) == 4
    with pytest.raises(ZeroDivisionError):
        gather(lambda: 1 / 0)


def in_process(rank: int, file: str) -> None:
    join(rank, file)
    assert gather(lambda: 10 + rank) == [10, 11]
    assert on_main(lambda: f'from {rank}') == 'from 0'
    with compat.alone():
        assert dist.get_dist_info() == (0, 1)
    assert dist.get_dist_info() == (rank, 2)
    # an error of one process is one of both, and none is left waiting
    error, message = [(UserError, 'rank 1 failed: KeyError'), (KeyError, 'mine')][rank]
    with pytest.raises(error, match=message):
        gather(lambda: {}['mine'] if rank else 'well')
    error, message = [(ZeroDivisionError, ''), (UserError, 'rank 0 failed: ZeroDivision')][rank]
    with pytest.raises(error, match=message):
        on_main(lambda: 1 / 0)
    assert gather(lambda: rank) == [0, 1]
    torch.distributed.destroy_process_group()


def test_two_processes_share_results_and_errors(tmp_path):
    multiprocessing.start_processes(
        in_process, (str(tmp_path / 'store'),), nprocs=2, start_method='fork'
    )
