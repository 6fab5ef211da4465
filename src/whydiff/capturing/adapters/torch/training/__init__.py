"""Training programs followed step by step: where a step ends, what is cheap to know of each, and one step in full."""
