# mmpretrain's runtime, a seed, and mmpse itself: its components are known to any tool then.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmpse'], allow_failed_imports=False)
randomness = dict(seed=0)
