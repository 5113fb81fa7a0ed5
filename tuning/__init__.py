"""Many jobs: sweeps of searches with Ray Tune and Optuna."""
