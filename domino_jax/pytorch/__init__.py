"""Our networks in PyTorch's names, layouts and files, both ways."""
