"""The search space: candidate operations, the supernet of a search, the network that a genotype stands for."""
