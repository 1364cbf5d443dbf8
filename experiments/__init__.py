"""Commands: each file here runs as `python -m experiments.NAME`, or `longctx NAME`. A folder is a room."""

import sys

from experiments.settings.moved import Moved

sys.meta_path.append(Moved())
