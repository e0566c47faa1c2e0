"""Put a searched backbone into a detector or segmentor: `mmpse transfer`.

python tools/transfer.py CONFIG --subnet best_subnet.json [--checkpoint retrained.pth] -o NEW.py
"""

import sys

from mmpse.cli import main

if __name__ == '__main__':
    main(['transfer', *sys.argv[1:]])
