"""Where a difference starts, how it grows, and which rows of the outputs count."""
