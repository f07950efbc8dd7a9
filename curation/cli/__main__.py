"""`python -m curation.cli`: the command `notewright`, for launchers that start a module."""

import sys

from curation.cli import main

sys.exit(main())
