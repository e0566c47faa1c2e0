# Evolutionary search on ImageNet: 1,000 subnets of 95 to 100 % of the budget (population 50, 20
# generations, 10 parents, 25 mutants: what SPOS, MetaPruning, BCNet and MMRazor agree on).
_base_ = ['../datasets/imagenet_held-out.py', '../default_runtime.py']
train_cfg = dict(
    type='mmpse.EvolutionSearchLoop', input_shape=(3, 224, 224), metric='accuracy/top1'
)
val_cfg = dict()
test_cfg = test_dataloader = test_evaluator = None
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))  # MMEngine wants one; it is not used
