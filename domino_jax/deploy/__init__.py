"""What runs where PyTorch is and JAX is not: copy this folder whole."""
