"""Networks without batch statistics or random parts, as a pure pair (params, apply_fn)."""

from cljax.training.models.cnn import CNN
from cljax.training.models.create import MODELS, Model, ModelFn, create_model, num_params
from cljax.training.models.lenet import LeNet
from cljax.training.models.mlp import MLP
from cljax.training.models.resnet import ResNet18
from cljax.training.models.vit import ViT

__all__ = ["CNN", "MLP", "MODELS", "LeNet", "Model", "ModelFn", "ResNet18", "ViT", "create_model", "num_params"]
