"""What a rewrite must pass before a student sees it."""
