"""ResNet-18 for small images, with group normalisation."""

import jax
import jax.numpy as jnp
from flax import nnx

from cljax._checks import check_positive_int
from cljax.training.models.layers import activation_fn, group_norm, num_groups


def _conv(features_in: int, features_out: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Convolution without bias, He normal, padded by (size - 1) / 2 on each side."""
    pad = (size - 1) // 2
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions with group normalisation and a shortcut, a 1x1 convolution where the shape changes.

    Args:
        features_in: channels in.
        features_out: channels out.
        stride: stride of the first convolution.
        groups: groups of the normalisation.
        activation: name of the activation.
        rngs: random keys of the initial weights.
    """

    def __init__(
        self, features_in: int, features_out: int, stride: int, groups: int, activation: str, *, rngs: nnx.Rngs
    ):
        self.activation_fn = activation_fn(activation)
        self.conv_0 = _conv(features_in, features_out, 3, stride, rngs)
        self.norm_0 = group_norm(features_out, groups, rngs)
        self.conv_1 = _conv(features_out, features_out, 3, 1, rngs)
        self.norm_1 = group_norm(features_out, groups, rngs)
        self.projects = stride != 1 or features_in != features_out
        if self.projects:
            self.shortcut_conv = _conv(features_in, features_out, 1, stride, rngs)
            self.shortcut_norm = group_norm(features_out, groups, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Feature maps (batch, H, W, features_in) -> (batch, H / stride, W / stride, features_out)."""
        shortcut = self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x
        y = self.activation_fn(self.norm_0(self.conv_0(x)))
        return self.activation_fn(shortcut + self.norm_1(self.conv_1(y)))


class ResNet18(nnx.Module):
    """ResNet-18 with a 3x3 first convolution and no first pooling, as used on CIFAR.

    Group normalisation replaces batch normalisation: an example's scores do not depend on the rest of its batch, and
    there are no running statistics. The number of groups is the same everywhere: 32, or the largest power of 2 below
    that divides ``width``. Width 64, 3 channels and 10 classes make 11,173,962 parameters.

    Args:
        input_shape: shape (H, W, C) of one input.
        num_classes: number K of scores.
        rngs: random keys of the initial weights (He normal; scales 1, biases 0; head LeCun normal).
        width: channels of the first of the four stages; each next stage has twice as many.
        activation: name of the activation.

    References:
        He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016. Wu, He: Group normalization, 2018.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        width: int = 64,
        activation: str = "relu",
    ):
        width = check_positive_int("width", width)
        groups = num_groups(width)
        self.activation_fn = activation_fn(activation)
        self.stem_conv = _conv(input_shape[-1], width, 3, 1, rngs)
        self.stem_norm = group_norm(width, groups, rngs)
        features_in = width
        for stage in range(4):
            features = width * 2**stage
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                layer = ResidualBlock(features_in, features, stride, groups, activation, rngs=rngs)
                setattr(self, f"stage_{stage}_block_{block}", layer)
                features_in = features
        self.head = nnx.Linear(features_in, num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scores (batch, K) of inputs (batch, H, W, C)."""
        x = self.activation_fn(self.stem_norm(self.stem_conv(inputs)))
        for stage in range(4):
            for block in range(2):
                x = getattr(self, f"stage_{stage}_block_{block}")(x)
        return self.head(jnp.mean(x, axis=(1, 2)))
