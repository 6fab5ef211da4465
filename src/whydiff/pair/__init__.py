"""What corresponds: calls of two traces, parts of tensors of two sizes, and two replays in step."""
