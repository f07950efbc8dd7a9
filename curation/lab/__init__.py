"""The embedded world of fictional people, with its small students and teacher."""
