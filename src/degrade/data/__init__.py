"""Where pixels come from, and how they become batches on the device."""

from degrade.data.batches import Batches
from degrade.data.images import ImageSet
from degrade.data.sources import load_images

__all__ = ["Batches", "ImageSet", "load_images"]
