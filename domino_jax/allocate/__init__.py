"""Weights and a budget in, a scheme out: one file an allocator."""
