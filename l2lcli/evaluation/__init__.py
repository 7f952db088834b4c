"""Curves of any family on any problem over paired seeds; tuning; statistics; what an update rule does."""
