"""All shards through the teacher into a dataset folder, every source row accounted for."""
