"""A job from its first line to its last: a search, a pre-training, an evaluation."""
