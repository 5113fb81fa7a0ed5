"""A pre-trained GAN."""

from pretraining import data, made  # noqa: F401
