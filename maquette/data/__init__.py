"""Real data, from a name or a path, with its facts."""

from maquette.data.core import Data, Facts, Split, fingerprint, recall, recalled
from maquette.data.errors import DataError
from maquette.data.opening import corpora, open_data
from maquette.data.order import order
from maquette.data.windows import Windows, coded

__all__ = [
    "Data",
    "DataError",
    "Facts",
    "Split",
    "Windows",
    "coded",
    "corpora",
    "fingerprint",
    "open_data",
    "order",
    "recall",
    "recalled",
]
