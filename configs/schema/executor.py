"""Settings of the clusters on which a curation's tasks run, one for each input file. They do not change the rows, so a
run that began on one executor may go on with another."""

from pathlib import Path

from pydantic import Field, model_validator

from configs.schema.section import Section


class Slurm(Section):
    """A job array, one index an input file. The nodes must see the input, the output and the environment at the same
    paths as the machine that submits."""

    partition: str = ""
    """Partition of the jobs; it must be set."""
    time: str = "24:00:00"
    """Time limit of one task, in the form of `sbatch --time`."""
    cpus_per_task: int = Field(default=4, ge=1)
    memory_gb_per_cpu: int = Field(default=4, ge=1)
    gpus_per_task: int = Field(default=0, ge=0)
    most_at_once: int | None = Field(default=None, ge=1)
    """Most tasks that run at the same time; null: as many as the cluster allows."""
    max_array_size: int = Field(default=1001, ge=1)
    """The cluster's `MaxArraySize`; more files than that become several arrays."""
    qos: str = ""
    sbatch: dict[str, str] = Field(default_factory=dict)
    """Further options of sbatch, e.g. {account: lab, constraint: a100}."""
    env_command: str = ""
    """Shell line that prepares the environment on the node, e.g. `module load cuda && source /shared/env.sh`."""
    venv: Path | None = None
    """Virtual environment to activate on the node; null takes that of the submitting process."""
    srun: bool = True
    """Start each task through `srun`, which most clusters require."""
    poll_seconds: float = Field(default=30, gt=0)
    """Seconds between two looks at the queue, for `curation.wait`."""

    @model_validator(mode="after")
    def _one_environment(self) -> "Slurm":
        if self.env_command and self.venv is not None:
            raise ValueError("curation.slurm.env_command and curation.slurm.venv: name one of them")
        return self


class Ray(Section):
    """Tasks on the Ray cluster that RAY_ADDRESS names, or on one of this machine. The nodes must see the input, the
    output and the environment at the same paths as the machine that starts the run."""

    cpus_per_task: float = Field(default=1, gt=0)
    gpus_per_task: float = Field(default=0, ge=0)
    memory_gb_per_task: float = Field(default=0, ge=0)
    """Memory that Ray reserves for a task; 0 reserves none."""
    most_at_once: int | None = Field(default=None, ge=1)
    """Most tasks that run at the same time; null: as many as fit on the cluster."""
    retries: int = Field(default=3, ge=0)
    """How often a task is started again after its worker or node died."""
    pass_on: tuple[str, ...] = ()
    """Environment variables of this process that the tasks get as well, e.g. [OPENAI_API_KEY]."""
