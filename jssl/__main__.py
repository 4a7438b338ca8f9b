"""``python -m jssl`` is the command ``jssl``."""

import sys

from jssl.cli import main

sys.exit(main())
