"""Ports of modules to JAX, right ones and with planted mistakes."""
