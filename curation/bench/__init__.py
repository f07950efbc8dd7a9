"""The project's own speed and learning, measured with controls."""
