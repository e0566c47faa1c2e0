"""`mmpse prune`: the steps from a trained model to a pruned one."""
