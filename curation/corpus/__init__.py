"""Documents before the teacher: shards, filters, secrets, decontamination."""
