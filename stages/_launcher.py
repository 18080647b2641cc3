"""What `$ALOL_LAUNCHER` runs to start a stage's processes on several machines, and how these find each other.

torchrun and accelerate tell each process its number. Plain `srun` and `mpirun` do so under names of their own, which
are taken as those of PyTorch in a process that a stage started in this way, and in no other: within a Slurm allocation
they are there for every process.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from alol.base.errors import InputError

LAUNCHER = "ALOL_LAUNCHER"
HEAD = "ALOL_HEAD"  # environment variable of a process that it started: where the stage waits for it, host:port
PASSED = ("ALOL_", "GLOO_", "NCCL_", "OMP_")  # beginnings of variables that processes get on any machine: no secrets
RUNNERS = ("torchrun", "torch.distributed.run", "accelerate-launch", "accelerate.commands.launch")
NO_PYTHON = ("--no_python", "--no-python")
# Launcher -> number of the process, of all, and of this one on its machine. Slurm's come last: a process that mpirun
# starts within an allocation has those of the daemon above it.
NAMES = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


def words(text: str) -> list[str]:
    """The launcher and its options. Raises InputError where it cannot be run."""
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{LAUNCHER} is {text!r}, which a shell cannot read ({error}); correct it") from None
    if not found:
        raise InputError(f"{LAUNCHER} is empty; unset it, or name a launcher such as 'srun --ntasks=8'")
    if shutil.which(found[0]) is None:
        raise InputError(
            f"{LAUNCHER} begins with {found[0]!r}, which is no program here; correct it, install the program or load "
            "its module, or unset it"
        )
    return found


def command(text: str, stage: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The whole command: the launcher, and through `env`, as some launchers pass neither, the folder and environment.

    Raises InputError where the launcher cannot be run.
    """
    found = words(text)
    names = {Path(word).name for word in found}
    if (names.intersection(RUNNERS) or {"accelerate", "launch"} <= names) and not names.intersection(NO_PYTHON):
        found.append(NO_PYTHON[0])
    return [*found, "env", f"--chdir={Path.cwd()}", *(f"{key}={value}" for key, value in environment.items()), *stage]


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """What of this process's environment those on other machines get in any case."""
    return {key: value for key, value in environment.items() if key.startswith(PASSED) and key != LAUNCHER}


def numbered(environment: Mapping[str, str]) -> dict[str, str]:
    """PyTorch's names for the place of a process that a plain launcher started; {} for one that knows its place.

    Raises InputError where a launcher has started it that does not say which of the processes this is.
    """
    if HEAD not in environment or "WORLD_SIZE" in environment:
        return {}
    launcher = next((one for one, names in NAMES.items() if all(name in environment for name in names)), None)
    if launcher is None:
        raise InputError(
            f"{LAUNCHER} started this process without saying which of how many it is (RANK and WORLD_SIZE, or the "
            "variables of srun or mpirun); let it end in torchrun, or use another launcher"
        )
    host, _, port = environment[HEAD].rpartition(":")
    if launcher == "Slurm" and (nodes := environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST"))):
        host = first_host(nodes)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return dict(zip(names, [*(environment[name] for name in NAMES[launcher]), host, port], strict=True))


def first_host(nodes: str) -> str:
    """The first of Slurm's list of hosts: `gpu[03-07,11],big2` begins with gpu03."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def foreign(environment: Mapping[str, str]) -> list[str]:
    """Variables that accelerate would read too: of `mpirun torchrun` they count the torchruns, not the processes."""
    return [name for name in environment if name.startswith(("OMPI_COMM_WORLD_", "PMI_", "MPI_LOCAL"))]
