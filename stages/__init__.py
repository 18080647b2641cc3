"""One click command per pipeline stage: load, call one library function, write."""

import gc
import os

# Before torch is loaded, by whatever stage: its threads otherwise spin while they wait for each other, and a stage that
# shares its machine slows down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Imports make a million objects and no garbage, so looking for it only takes time: a tenth of a stage's start. The
# command (stages._cli) switches it on again.
gc.disable()
