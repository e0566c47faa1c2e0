"""What a pruned model learns from the model that it was cut from."""
