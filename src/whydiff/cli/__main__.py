"""``python -m whydiff.cli`` is ``whydiff``."""

from whydiff.cli import main

main()
