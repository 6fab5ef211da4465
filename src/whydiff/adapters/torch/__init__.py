"""The PyTorch adapter: the only room that imports torch."""
