"""Makes the launchers in tools/ and the helpers beside the tests importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / 'tools'), str(ROOT / 'tests')]
