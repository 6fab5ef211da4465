"""A process of its own for replaying what a stranger recorded: bounded, watched, and ended without harm to this one.

`asked` starts it, `child` is what it runs; the two speak in lines of JSON. See ``docs/explanation/trust.md``.
"""
