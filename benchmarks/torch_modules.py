"""Modules of PyTorch, layer by layer those of ``cljax.training.models``, parameters under the same names.

Two things are written out that PyTorch has built in, as the built-in ones have no second derivative in forward mode:
group normalization and attention. Inputs are (batch, H, W, C), as here.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS = {"tanh": torch.tanh, "relu": functional.relu, "gelu": lambda x: functional.gelu(x, approximate="tanh")}


def _linear(shape: tuple[int, ...], bias: bool = True) -> nn.Linear:
    return nn.Linear(shape[0], shape[1], bias=bias)


class MLP(nn.Module):
    """See ``cljax.training.models.mlp``."""

    def __init__(self, apply_fn: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        options = dict(apply_fn.options)
        self.activation_fn = ACTIVATIONS[options["activation"]]
        self.names = [f"hidden_{i}" for i in range(len(options["hidden"]))]
        for name in (*self.names, "head"):
            setattr(self, name, _linear(shapes[f"{name}.kernel"]))

    def forward(self, x: Any) -> Any:
        """Scores of inputs."""
        x = x.flatten(1)
        for name in self.names:
            x = self.activation_fn(getattr(self, name)(x))
        return self.head(x)


class LeNet(nn.Module):
    """See ``cljax.training.models.lenet``."""

    def __init__(self, apply_fn: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        height, width, channels = apply_fn.input_shape
        self.activation_fn = ACTIVATIONS[dict(apply_fn.options)["activation"]]
        first = 0 if min(height, width) >= 32 else 2
        side = (min(height, width) - 4 + 2 * first) // 2
        self.conv_0 = nn.Conv2d(channels, 6, 5, padding=first)
        self.conv_1 = nn.Conv2d(6, 16, 5, padding=0 if side >= 8 else 2)
        for name in ("hidden_0", "hidden_1", "head"):
            setattr(self, name, _linear(shapes[f"{name}.kernel"]))

    def forward(self, x: Any) -> Any:
        """Scores of inputs."""
        x = x.permute(0, 3, 1, 2)
        for conv in (self.conv_0, self.conv_1):
            x = functional.avg_pool2d(self.activation_fn(conv(x)), 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in (self.hidden_0, self.hidden_1):
            x = self.activation_fn(layer(x))
        return self.head(x)


class Norm(nn.Module):
    """Normalization over groups of the channels (axis 1), or over the last axis where there are no groups."""

    def __init__(self, features: int, groups: int | None = None) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.eps = 1e-5

    def forward(self, x: Any) -> Any:
        """The normalized input, scaled and shifted."""
        if self.groups is None:
            centered = x - x.mean(-1, keepdim=True)
            return centered * torch.rsqrt((centered**2).mean(-1, keepdim=True) + self.eps) * self.weight + self.bias
        y = x.reshape(x.shape[0], self.groups, -1)
        y = y - y.mean(-1, keepdim=True)
        y = (y * torch.rsqrt((y**2).mean(-1, keepdim=True) + self.eps)).reshape(x.shape)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


class ResidualBlock(nn.Module):
    """See ``cljax.training.models.resnet``."""

    def __init__(self, features_in: int, features_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(features_in, features_out, 3, stride, 1, bias=False)
        self.norm_0 = Norm(features_out, groups)
        self.conv_1 = nn.Conv2d(features_out, features_out, 3, 1, 1, bias=False)
        self.norm_1 = Norm(features_out, groups)
        self.projects = stride != 1 or features_in != features_out
        if self.projects:
            self.shortcut_conv = nn.Conv2d(features_in, features_out, 1, stride, bias=False)
            self.shortcut_norm = Norm(features_out, groups)

    def forward(self, x: Any) -> Any:
        """Feature maps of feature maps."""
        shortcut = self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x
        return functional.relu(shortcut + self.norm_1(self.conv_1(functional.relu(self.norm_0(self.conv_0(x))))))


class ResNet18(nn.Module):
    """See ``cljax.training.models.resnet``."""

    def __init__(self, apply_fn: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        from cljax.training.models.layers import num_groups

        width = dict(apply_fn.options)["width"]
        groups = num_groups(width)
        self.stem_conv = nn.Conv2d(apply_fn.input_shape[-1], width, 3, 1, 1, bias=False)
        self.stem_norm = Norm(width, groups)
        self.names, features_in = [], width
        for stage in range(4):
            for block in range(2):
                self.names.append(f"stage_{stage}_block_{block}")
                stride = 2 if stage > 0 and block == 0 else 1
                setattr(self, self.names[-1], ResidualBlock(features_in, width * 2**stage, stride, groups))
                features_in = width * 2**stage
        self.head = _linear(shapes["head.kernel"])

    def forward(self, x: Any) -> Any:
        """Scores of inputs."""
        x = functional.relu(self.stem_norm(self.stem_conv(x.permute(0, 3, 1, 2))))
        for name in self.names:
            x = getattr(self, name)(x)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """See ``cljax.training.models.blocks``."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nn.Linear(dim, dim))

    def forward(self, x: Any) -> Any:
        """Tokens of tokens."""
        batch, tokens, dim = x.shape
        split = (batch, tokens, self.heads, dim // self.heads)
        query, key, value = (layer(x).reshape(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        logits = (query * (dim // self.heads) ** -0.5) @ key.transpose(2, 3)
        if self.causal:
            later = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            logits = logits.masked_fill(later, torch.finfo(logits.dtype).min)
        return self.out((logits.softmax(-1) @ value).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """See ``cljax.training.models.blocks``."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, activation: str, causal: bool) -> None:
        super().__init__()
        self.activation_fn = ACTIVATIONS[activation]
        self.norm_0, self.attention, self.norm_1 = Norm(dim), Attention(dim, heads, causal), Norm(dim)
        self.mlp_0, self.mlp_1 = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)

    def forward(self, x: Any) -> Any:
        """Tokens of tokens."""
        x = x + self.attention(self.norm_0(x))
        return x + self.mlp_1(self.activation_fn(self.mlp_0(self.norm_1(x))))


class ViT(nn.Module):
    """See ``cljax.training.models.vit``."""

    def __init__(self, apply_fn: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        options = dict(apply_fn.options)
        dim, self.patch = options["dim"], options["patch"]
        self.positions = nn.Parameter(torch.zeros(shapes["positions"]))
        self.embed = _linear(shapes["embed.kernel"])
        self.names = [f"block_{i}" for i in range(options["depth"])]
        for name in self.names:
            mlp_dim = options["mlp_ratio"] * dim
            setattr(self, name, Block(dim, options["heads"], mlp_dim, options["activation"], False))
        self.norm, self.head = Norm(dim), _linear(shapes["head.kernel"])

    def forward(self, x: Any) -> Any:
        """Scores of inputs."""
        batch, height, width, channels = x.shape
        p = self.patch
        x = x.reshape(batch, height // p, p, width // p, p, channels).transpose(2, 3)
        x = self.embed(x.reshape(batch, -1, p * p * channels)) + self.positions
        for name in self.names:
            x = getattr(self, name)(x)
        return self.head(self.norm(x).mean(1))


class Transformer(nn.Module):
    """See ``cljax.training.models.transformer``; the embedding is the head too."""

    def __init__(self, apply_fn: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        options = dict(apply_fn.options)
        width = options["width"]
        self.embedding = nn.Parameter(torch.zeros(shapes["embedding"]))
        self.positions = nn.Parameter(torch.zeros(shapes["positions"]))
        self.names = [f"block_{i}" for i in range(options["depth"])]
        for name in self.names:
            mlp_dim = options["mlp_ratio"] * width
            setattr(self, name, Block(width, options["heads"], mlp_dim, options["activation"], True))
        self.norm = Norm(width)

    def forward(self, x: Any) -> Any:
        """Scores of tokens."""
        x = self.embedding[x] + self.positions
        for name in self.names:
            x = getattr(self, name)(x)
        return self.norm(x) @ self.embedding.T


MODULES = {"mlp": MLP, "lenet": LeNet, "resnet18": ResNet18, "vit": ViT, "transformer": Transformer}
"""Modules by the name of the model, called as ``module(apply_fn, shapes)``."""
