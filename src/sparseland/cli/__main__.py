"""``python -m sparseland.cli`` is ``sparseland``."""

from . import main

main()
