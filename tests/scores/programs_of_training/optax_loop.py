"""A loop of optax under ``jit`` or ``scan``; as a script: ``python optax_loop.py [scan] RATE``."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

DRAWN = np.random.default_rng(0)
DATA = jnp.asarray(DRAWN.normal(size=(3, 4, 6)), jnp.float32)
WEIGHTS = {
    name: jnp.asarray(DRAWN.normal(0, 0.3, n), jnp.float32) for name, n in (("first", (6, 8)), ("second", (8, 1)))
}


def _loss(parameters: Any, x: Any) -> Any:
    return jnp.mean((jnp.tanh(x @ parameters["first"]) @ parameters["second"]) ** 2)


def _trained(rate: float, *, scan: bool) -> tuple[Any, Any]:
    optimizer = optax.adamw(rate)

    def step(carried: Any, x: Any) -> Any:
        parameters, state = carried
        loss, gradients = jax.value_and_grad(_loss)(parameters, x)
        updates, state = optimizer.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state), loss

    carried: Any = WEIGHTS, optimizer.init(WEIGHTS)
    if scan:
        carried, losses = jax.jit(lambda begun, data: jax.lax.scan(step, begun, data))(carried, DATA)
        return losses, carried[0]
    compiled, found = jax.jit(step), []
    for x in DATA:
        carried, loss = compiled(carried, x)
        found.append(loss)
    return jnp.stack(found), carried[0]


def jitted() -> Any:
    return _trained(1e-2, scan=False)


def jitted_faster() -> Any:
    return _trained(2e-2, scan=False)


def scanned() -> Any:
    return _trained(1e-2, scan=True)


def scanned_faster() -> Any:
    return _trained(2e-2, scan=True)


if __name__ == "__main__":
    print(_trained(float(sys.argv[-1]), scan="scan" in sys.argv)[0])
