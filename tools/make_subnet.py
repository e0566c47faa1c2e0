"""Write the subnet file of a uniformly pruned (or the full, or the tiny) network.

python tools/make_subnet.py CONFIG --flops 50% --input-shape 3 224 224 -o uniform.json
python tools/make_subnet.py CONFIG --like best_subnet.json -o uniform.json

CONFIG is a file, or `mmpse::...`, `mmdet::...` and the like; its backbone is a slimmable one, or a
stock one that tools/transfer.py can replace. --flops and --params are limits for the whole model,
and the largest uniform subnet within them is written; --like takes the one whose FLOPs are nearest
to those of the other, below or above.
"""

import argparse
from collections.abc import Mapping

from mmengine.registry import init_default_scope

import mmpse  # noqa: F401
from mmpse.command import run_command
from mmpse.models import (
    costs_of,
    find_backbone,
    model_costs,
    with_subnet,
)
from mmpse.registry import MODELS
from mmpse.space import Budget, Subnet, nearest_uniform
from mmpse.transfer.config import load_supernet


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a model with a slimmable backbone')
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument('--flops', help="most FLOPs of the uniform subnet: '300M', '50%%'")
    target.add_argument('--params', help="most parameters of the uniform subnet: '2M', '50%%'")
    target.add_argument('--like', help='uniform subnet of about the FLOPs of this subnet file')
    parser.add_argument('--input-shape', nargs=3, type=int, metavar=('C', 'H', 'W'))
    parser.add_argument('-o', '--out', required=True, help='subnet file to write')
    args = parser.parse_args()
    if args.input_shape is None and args.like is None:
        parser.error('--input-shape C H W is needed to count FLOPs')
    return args


def uniform_subnet(
    model: Mapping,
    limit: Mapping[str, str | float],
    input_shape: tuple[int, ...],
    at_most: bool = True,
) -> Subnet:
    """The uniformly pruned subnet whose resource is nearest to a limit.

    Args:
        model: Config of the model.
        limit: One resource and its amount, e.g. ``{'flops': '50%'}``.
        input_shape: Shape ``(C, H, W)`` of one image.
        at_most: Not above the limit.
    """
    space = find_backbone(MODELS.build(with_subnet(model, None))).search_space
    costs = model_costs(model, input_shape)
    budget = Budget(space, costs, limit)
    subnet = space.subnet(nearest_uniform(space, budget.cost, budget.high, at_most))
    resources = dict(costs_of(space, costs, subnet), input_shape=list(input_shape))
    return space.subnet(list(subnet.values()), resources=resources, source=dict(origin='uniform'))


def main() -> None:
    args = parse_args()
    subnet = make_subnet(args)
    subnet.save(args.out)
    print(f'{args.out}: {subnet.resources}')


def make_subnet(args: argparse.Namespace) -> Subnet:
    cfg = load_supernet(args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    input_shape = args.input_shape
    if args.like is not None:
        other = Subnet.load(args.like)
        limit = dict(flops=other.resources['flops'])
        input_shape = input_shape or other.resources['input_shape']
    else:
        limit = dict(flops=args.flops) if args.flops else dict(params=args.params)
    return uniform_subnet(cfg.model.to_dict(), limit, tuple(input_shape), args.like is None)


if __name__ == '__main__':
    run_command(main)
