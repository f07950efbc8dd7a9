"""Whether this machine can run a config, and what to change."""
