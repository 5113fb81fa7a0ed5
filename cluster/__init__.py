"""One job on one or many machines: Ray Train, and MLflow as a mirror of what ran."""
