"""What users subclass to test that mmpse prunes their model rightly."""

from .slim import SlimTester, randomize_, subnets_of
