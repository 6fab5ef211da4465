"""The wheel as users get it; ``make product``, not part of `make test`."""
