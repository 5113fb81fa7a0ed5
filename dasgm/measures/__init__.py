"""What is measured: the judge, FID and IS, parameters and multiply-adds."""
