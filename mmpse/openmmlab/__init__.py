"""mmpse in OpenMMLab: registries, hooks, loops, configs and checkpoints."""
