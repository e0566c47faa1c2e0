"""What users subclass to test that mmpse prunes their model rightly."""

from .comparing import randomize_, subnets_of
from .slim import SlimTester
