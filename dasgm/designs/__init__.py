"""What an evaluation trains: genotypes and networks that are known by name."""
