"""The inner loop: an optimizee in training."""
