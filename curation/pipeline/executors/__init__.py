"""Where the tasks of a curation run: processes of this machine, Slurm, Ray."""
