"""Arms of texts taught to students at equal tokens, compared with intervals."""
