"""What a run keeps on disk: journal, checkpoints, samples, and whose folder it is."""
