"""``python -m whydiff``: the ``whydiff`` command of this interpreter."""

from whydiff.cli import main

if __name__ == "__main__":
    main()
