"""`notewright evaluate`: what students gain from arms of texts at equal tokens, and how sure that is."""
