"""The words that all others use: paths, schemes, masks, layers, costs; imports nothing of ours."""
