"""OpenMMLab's side of mmpse: registry, configs, checkpoints, hooks and loops."""
