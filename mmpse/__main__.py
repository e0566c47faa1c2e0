"""``python -m mmpse`` is the command ``mmpse``."""

from mmpse.cli import main

if __name__ == '__main__':
    main()
