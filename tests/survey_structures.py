"""Which stock configs there are, and which share a structure: their units are of the same kinds."""

import hashlib
import importlib
import json
from pathlib import Path

# what changes no unit, or only how many outputs a model has
IGNORED = set(
    'init_cfg pretrained num_classes num_things_classes num_stuff_classes train_cfg test_cfg '
    'data_preprocessor frozen_stages norm_eval with_cp style requires_grad align_corners '
    'dropout_ratio drop_path_rate drop_rate anchor_generator prior_generator bbox_coder '
    'class_weight point_generator teacher_ckpt eval_teacher reg_decoded_bbox momentum eps'.split()
)
# how wide and how deep: models that differ in these alone have units of the same kinds
SIZES = set(
    'in_channels out_channels num_channels channels base_channels stem_channels feat_channels '
    'c1_channels c1_in_channels conv_out_channels fc_out_channels feedforward_channels '
    'widen_factor deepen_factor embed_dims embed_dim base_width arch depths num_layers '
    'num_csp_blocks num_heads window_size img_size pretrain_img_size mlp_ratio mlp_ratios '
    'sr_ratios num_queries num_feats layer_scale_init_values'.split()
)
DEPTHS = {34: 18, 101: 50, 152: 50, 200: 50, 269: 50}  # of ResNets: blocks are repeated


def configs_of(package):
    """Names of the configs of a package that are no bases."""
    root = Path(importlib.import_module(package).__file__).parent / '.mim/configs'
    paths = (path for path in root.rglob('*.py') if path.stem != '__init__')
    return {
        f'{package}::{path.relative_to(root).as_posix()}': path
        for path in sorted(paths)
        if '_base_' not in path.parts
    }


def structure_of(scope, model):
    """A text that configs of one structure share."""
    text = json.dumps(_core(model), sort_keys=True)
    return f'{scope}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'


def _core(value, key=''):
    if isinstance(value, dict):
        sizes = SIZES | {'groups'} if 'base_width' in value else SIZES
        return {
            k: _core(v, k)
            for k, v in value.items()
            if k not in IGNORED | sizes and not k.startswith('loss')
        }
    if isinstance(value, list):
        return [_core(item, key) for item in value]
    if key == 'depth':
        return DEPTHS.get(value, value)
    return dict(SyncBN='BN', MMSyncBN='BN').get(value, value) if key == 'type' else value


def groups_of(lines):
    """Structure -> the names of its configs."""
    groups = {}
    for name, line in lines.items():
        if 'model' in line:
            groups.setdefault(structure_of(line['scope'], line['model']), []).append(name)
    return groups
