"""What is measured: the judge of generated images, FID and IS, parameters and multiply-adds."""
