"""GANs, one file each. The name of the file is the GAN's key for --gan; files that begin with `_` are helpers."""
