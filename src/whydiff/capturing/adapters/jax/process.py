"""What JAX keeps for the whole process, as it was found, and the way back."""

from __future__ import annotations

import jax

from whydiff.capturing.adapters.contract import Kept


class Process(Kept):
    """Remembers JAX's configuration (precision, x64, matmul precision, debugging …) on construction."""

    def __init__(self) -> None:
        self._settings = dict(jax.config.values)

    def restore(self) -> None:
        """Put back what changed since."""
        now = dict(jax.config.values)
        for name, value in self._settings.items():
            if now.get(name) != value:
                jax.config.update(name, value)
