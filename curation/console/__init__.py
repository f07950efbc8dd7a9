"""What a user sees while something runs: progress, tables, formats."""
