"""How whydiff's own kernels are compiled (`compiled`, the one door to numba) and spread over threads (`threads`)."""
