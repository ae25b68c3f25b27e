"""Networks without batch statistics or random parts, as a pure pair (params, apply_fn)."""

from cljax.training.models.cnn import CNN
from cljax.training.models.create import MODELS, Model, ModelFn, abstract_model, create_model, num_params
from cljax.training.models.lenet import LeNet
from cljax.training.models.mlp import MLP
from cljax.training.models.resnet import ResNet18
from cljax.training.models.transformer import SIZES, Transformer
from cljax.training.models.vit import ViT

__all__ = [
    "CNN",
    "MLP",
    "MODELS",
    "SIZES",
    "LeNet",
    "Model",
    "ModelFn",
    "ResNet18",
    "Transformer",
    "ViT",
    "abstract_model",
    "create_model",
    "num_params",
]
