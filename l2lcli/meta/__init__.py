"""The outer loop: meta-gradients make phi better."""
