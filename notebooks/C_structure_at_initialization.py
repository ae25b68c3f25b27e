# %% [markdown]
# # C. Structure matrices at initialization: depth, width, sparsity, skips
#
# The eigenvalues of $A_x = J_x J_x^\top$ decide how closely the gradient energy follows the loss. arXiv:2608.09523
# reports (protocol C) that their spread shrinks with the size of the network, that without skip connections the
# spectrum decays with depth, and that with them it grows, linearly on a logarithmic scale.
#
# The network is `cnn`: 3x3 convolutions, no normalisation, He initialization. Eigenvalues are taken in the full space,
# as in the source, and as medians over the examples.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cljax
from cljax import losses, theory
from cljax.training.datasets import load_dataset
from cljax.training.models import create_model, num_params

SIZE = os.environ.get("CLJAX_SIZE", "small")
HAS_DATA = bool(os.environ.get("CLJAX_DATA")) and SIZE != "tiny"
DATASET = "mnist" if HAS_DATA else "digits"
NUM_EXAMPLES = {"tiny": 2, "small": 8, "full": 64}[SIZE]
DEPTHS = {"tiny": (1, 2), "small": (1, 2, 4, 8, 16), "full": (1, 2, 4, 8, 16, 32, 100)}[SIZE]
WIDTHS = {"tiny": (2, 4), "small": (2, 4, 8, 16, 32), "full": (4, 16, 64, 256, 400)}[SIZE]
KEPT = {"tiny": (1.0, 0.5), "small": (1.0, 0.5, 0.2, 0.1, 0.05), "full": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)}[SIZE]
DEFAULT_WIDTH = {"tiny": 2, "small": 8, "full": 64}[SIZE]

data = load_dataset(DATASET, None, num_train=NUM_EXAMPLES)
batch = cljax.Batch(jnp.asarray(data.train_inputs), jnp.asarray(data.train_targets))
loss = losses.fenchel_young(losses.squared())


def masked(apply_fn, mask):
    """The network with a share of its kernels' entries held at 0: they are no parameters any more."""
    return lambda params, x: apply_fn(jax.tree.map(jnp.multiply, params, mask), x)


def extremes(kept=1.0, **options):
    """log2 of the extreme eigenvalues, medians over examples, and the number of parameters."""
    model = create_model("cnn", jax.random.key(0), data.input_shape, 10, **options)
    apply_fn, size = model.apply_fn, num_params(model.params)
    params = model.params
    if kept < 1:
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        mask = [
            jax.random.bernoulli(k, kept if x.ndim > 1 else 1.0, x.shape) * 1.0
            for k, x in zip(keys, leaves, strict=True)
        ]
        size, mask = int(sum(m.sum() for m in mask)), jax.tree.unflatten(treedef, mask)
        # what is left keeps the variance of the activations
        params = jax.tree.map(lambda x: x / kept**0.5 if x.ndim > 1 else x, params)
        apply_fn = masked(apply_fn, mask)
    found = theory.structure_extremes(apply_fn, loss, params, batch, subspace="full")
    return np.log2(np.median(found.per_example_min)), np.log2(np.median(found.per_example_max)), size


# %%
panels = {
    "depth: convolutions a stage": (DEPTHS, lambda v, skip: extremes(depth=v, width=DEFAULT_WIDTH, skip=skip)),
    "width: channels of the first stage": (WIDTHS, lambda v, skip: extremes(width=v, skip=skip)),
    "share of kernel entries kept": (KEPT, lambda v, skip: extremes(kept=v, width=DEFAULT_WIDTH, skip=skip)),
}
table = []
figure, axes = plt.subplots(2, 3, figsize=(13, 6), sharex="col", layout="constrained")
for column, (title, (values, fn)) in enumerate(panels.items()):
    for skip, color in ((False, "#1f6fb4"), (True, "#e07b1a")):
        rows = np.array([fn(value, skip) for value in values])
        table += [(title, skip, v, *row) for v, row in zip(values, rows, strict=True)]
        label = "with skips" if skip else "without"
        axes[0, column].plot(values, rows[:, 1], "o-", color=color, label=f"λmax, {label}")
        axes[0, column].plot(values, rows[:, 0], "o--", color=color, label=f"λmin, {label}")
        axes[1, column].plot(values, rows[:, 1] - rows[:, 0], "o-", color=color, label=label)
    axes[0, column].set_title(f"{DATASET}: {title}", fontsize=10)
    axes[1, column].set_xlabel(title)
    axes[1, column].set_xscale("log", base=2)
axes[0, 0].set_ylabel("log2 eigenvalue")
axes[1, 0].set_ylabel("log2 λmax / λmin")
axes[0, 0].legend(fontsize=8)
axes[1, 0].legend(fontsize=8)
plt.show()

# %%
print("| panel | skips | value | log2 λmin | log2 λmax | spread | parameters |")
print("|---|---|---|---|---|---|---|")
for title, skip, value, low, high, size in table:
    print(f"| {title} | {skip} | {value:g} | {low:.2f} | {high:.2f} | {high - low:.2f} | {int(size)} |")

# %% [markdown]
# Slopes of $\log_2 \lambda_{\max}$ against depth and of the spread against $\log_2$ of width, by least squares:

# %%
for skip in (False, True):
    depth = np.array([(v, high) for title, s, v, _, high, _ in table if title.startswith("depth") and s == skip])
    wide = np.array([(v, high - low) for title, s, v, low, high, _ in table if title.startswith("width") and s == skip])
    growth = np.polyfit(depth[:, 0], depth[:, 1], 1)[0]
    shrink = np.polyfit(np.log2(wide[:, 0]), wide[:, 1], 1)[0]
    print(f"skips {skip}: log2 λmax grows by {growth:+.2f} a layer; spread by {shrink:+.2f} a doubling of the width")

# %% [markdown]
# **What agrees.** The spread $\lambda_{\max}/\lambda_{\min}$ shrinks as the network gets wider. With skips $\log
# \lambda$ grows about linearly with depth; without them it does not grow, and at 16 convolutions a stage it has fallen.
#
# **What does not, or not clearly.** The spread does not shrink with depth: with skips it grows from 2 convolutions a
# stage on, without them it is greater at every depth than at 1. Without skips there is hardly a fall up to 8 convolutions a
# stage, since He initialization keeps the size of activations; it depends on the scale of the initial weights, which the
# source does not state, and the slope printed above is that of the last point. Where very few kernel
# entries remain, $\lambda_{\min}$ is that of the head's bias alone, 1, and the spread is that of $\lambda_{\max}$. The
# source says nothing of sparsity here.
#
# **What could not be checked.** The source's networks a and b exactly: only their widths and depths are known. Depths
# to 100 and widths to 1600 need a larger machine: `CLJAX_SIZE=full`.
