"""Models that the project makes or brings: SmolLM2 from a wheel, a student warmed up for closed questions."""
