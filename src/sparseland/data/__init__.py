"""Small real datasets, in the package or in a local folder, and the order in which a run sees them."""

from sparseland.data.catalog import NAMES, load
from sparseland.data.corruptions import CORRUPTIONS, corrupt
from sparseland.data.dataset import Dataset, Split
from sparseland.data.loader import AUGMENTATIONS, Batches, batches

__all__ = ["AUGMENTATIONS", "CORRUPTIONS", "NAMES", "Batches", "Dataset", "Split", "batches", "corrupt", "load"]
