"""One click command per pipeline stage: load, call one library function, write."""

import gc
import os

# Before torch is loaded, by whatever stage: its threads otherwise spin while they wait for each other, and a stage that
# shares its machine slows down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Imports make a million objects and no garbage; looking for it after every 700 of them takes a twentieth of a start.
gc.set_threshold(100_000, 50, 100)
