"""Networks, and what can be said of them without training."""

from degrade.models.anatomy import count_parameters, layers, multiply_adds
from degrade.models.cifar import BasicBlock, CifarNet, build_model
from degrade.models.classifier import Classifier
from degrade.models.vgg import VggNet

__all__ = [
    "BasicBlock",
    "CifarNet",
    "Classifier",
    "VggNet",
    "build_model",
    "count_parameters",
    "layers",
    "multiply_adds",
]
