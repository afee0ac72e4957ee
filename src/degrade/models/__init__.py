"""Networks, and what can be said of them without training."""

from degrade.models.activation import activation
from degrade.models.anatomy import count_parameters, layers, multiply_adds
from degrade.models.cifar import BasicBlock, CifarNet
from degrade.models.classifier import Classifier
from degrade.models.family import build_model
from degrade.models.norm import convolution, normalisation
from degrade.models.preact import PreactNet
from degrade.models.vgg import VggNet

__all__ = [
    "BasicBlock",
    "CifarNet",
    "Classifier",
    "PreactNet",
    "VggNet",
    "activation",
    "build_model",
    "convolution",
    "count_parameters",
    "layers",
    "multiply_adds",
    "normalisation",
]
