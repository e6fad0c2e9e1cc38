"""Every test process keeps to one core: several that each use all of them wait for each other most of the time."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
