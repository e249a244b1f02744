"""`python -m slotworks`, which `torchrun -m slotworks` needs."""

import sys

from slotworks.cli import main

sys.exit(main())
