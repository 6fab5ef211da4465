"""Work on tensors where they lie, on a GPU: fingerprints of many by one launch, and the one-pass comparison."""
