"""Real data, from a name or a path, with its facts."""

from maquette.data.core import Data, Facts, Split, fingerprint, recall, recalled
from maquette.data.opening import open_data
from maquette.data.order import order

__all__ = ["Data", "Facts", "Split", "fingerprint", "open_data", "order", "recall", "recalled"]
