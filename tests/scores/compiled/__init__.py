"""Programs whose compiled form was reported to PyTorch: what the ladder and the verdict say of them."""
