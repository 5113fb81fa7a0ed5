"""GANs: one file a GAN, its name is the key of `--gan`; files that begin with `_` are helpers."""
