"""One click command per pipeline stage: load, call one library function, write."""

import gc
import os
import resource
import sys
import warnings
from types import TracebackType

from alol.base import faults

NEEDED = 2**31  # bytes that the libraries of a stage map, with their threads' stacks
COMMAND = next((part.removeprefix("stages.") for part in sys.orig_argv if part.startswith("stages.")), None)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last words of a command: one line for what `stages._cli.mistakes` could not see, while modules load."""
    if line := faults.line(error, COMMAND):
        sys.stderr.write(f"Error: {line}\n")
    else:
        sys.__excepthook__(kind, error, trace)
        sys.stderr.write(f"{faults.REPORT} (stage {COMMAND}).\n")


if COMMAND:
    sys.excepthook = _uncaught
    if not sys.warnoptions:  # `python -W default -m stages...` shows what libraries warn their own users of
        warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < NEEDED:  # libraries would abort, or try for ever, while they load
        raise SystemExit(
            f"Error: a process may map {limit / 2**20:,.0f} MB here (ulimit -v), but the libraries of the stages need "
            f"{NEEDED / 2**20:,.0f} MB; raise the limit"
        )

# Before torch is loaded, by whatever stage: its threads otherwise spin while they wait for each other, and a stage that
# shares its machine slows down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The library behind GELU on a CPU compiles code for every shape and keeps the last 1024; batches without padding are of
# another shape each time, and gigabytes would come together.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

# Imports make a million objects and no garbage; looking for it after every 700 of them takes a twentieth of a start.
gc.set_threshold(100_000, 50, 100)
