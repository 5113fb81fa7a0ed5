"""A pre-trained GAN, a trained network."""

from pretraining import data, made  # noqa: F401
from trained import digits_pictures, digits_run  # noqa: F401
