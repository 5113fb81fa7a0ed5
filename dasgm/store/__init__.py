"""What lies on disk or in a bucket: files, records, checkpoints, runs. It knows no configuration and no search."""
