"""Commands. A file in this folder or in bench/ runs as `python -m experiments.NAME`; the other folders are packages."""

import sys

from experiments.settings.moved import Moved

sys.meta_path.append(Moved())
