"""Masks in a step, optimizers, losses, and the loops that search and train."""
