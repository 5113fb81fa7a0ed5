"""What is shown of runs: result pages, charts, pictures, tables."""
