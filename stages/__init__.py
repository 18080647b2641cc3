"""One click command per pipeline stage: load, call one library function, write."""

import gc
import os

# Before torch is loaded, by whatever stage: its threads otherwise spin while they wait for each other, and a stage that
# shares its machine slows down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The library behind GELU on a CPU compiles code for every shape and keeps the last 1024; batches without padding are of
# another shape each time, and gigabytes would come together.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

# Imports make a million objects and no garbage; looking for it after every 700 of them takes a twentieth of a start.
gc.set_threshold(100_000, 50, 100)
