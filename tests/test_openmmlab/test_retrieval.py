"""A retriever compares images with those that it is searched in, as it saw them."""

import copy

import torch
from mmengine.config import Config
from tiny_tasks import write_task

from mmpse.openmmlab.configs.building import build_model
from mmpse.openmmlab.configs.evaluation import evaluate


def test_a_changed_model_looks_at_its_prototypes_again(digits, tmp_path):
    config, _ = write_task('classification', digits, tmp_path)
    cfg = Config.fromfile(config)
    loader = dict(cfg.train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.model = dict(
        type='ImageToImageRetriever',
        data_preprocessor=cfg.model.data_preprocessor,
        image_encoder=[cfg.model.backbone, cfg.model.neck],
        head=dict(type='ArcFaceClsHead', num_classes=10, in_channels=128),
        prototype=loader,
    )
    cfg.val_evaluator = dict(type='RetrievalRecall', topk=(1, 5))
    model = build_model(cfg)
    evaluate(model, cfg)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fresh = build_model(cfg)
    fresh.load_state_dict(other.state_dict())
    evaluate(other, cfg)
    evaluate(fresh, cfg)
    assert torch.equal(other.prototype_vecs, fresh.prototype_vecs)
    assert not torch.equal(other.prototype_vecs, model.prototype_vecs)
