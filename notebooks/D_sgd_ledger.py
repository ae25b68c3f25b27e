# %% [markdown]
# # D. The ledger of SGD against batch size
#
# Each step lowers the loss of its batch by $c_k |\nabla R_B|^2$ and changes the mean loss off the batch by $D_k$. As the
# risk is the average of both,
# $\frac1T\sum_k c_k |\nabla R_B|^2 = \frac{n (R_0 - R_T)}{mT} + \frac{n-m}{m}\overline{D}$, exactly. With batch losses
# that are $L$-smooth along the steps and $c = \alpha(1 - \alpha L/2)$ it bounds the mean squared gradient, and the second
# term is the neighbourhood that SGD reaches. Sources: arXiv:2608.09523, theorem 4.2; arXiv:2602.16177, theorem 12, as
# reported. All constants are measured on the run; the data are real digits, the steps plain SGD.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cljax
from cljax import losses, theory
from cljax.training.datasets import load_dataset
from cljax.training.models import create_model

SIZE = os.environ.get("CLJAX_SIZE", "small")
NUM_EXAMPLES = {"tiny": 16, "small": 128, "full": 1024}[SIZE]
NUM_STEPS = {"tiny": 16, "small": 512, "full": 4096}[SIZE]
BATCH_SIZES = {"tiny": (1, 16), "small": (1, 2, 4, 8, 16, 32, 64, 128), "full": (1, 4, 16, 64, 256, 1024)}[SIZE]
LEARNING_RATE = 0.02

data = load_dataset("digits", None, num_train=NUM_EXAMPLES)
full = cljax.Batch(jnp.asarray(data.train_inputs), jnp.asarray(data.train_targets))
model = create_model("mlp", jax.random.key(0), data.input_shape, 10, hidden=(32,))
objective = losses.objective(model.apply_fn, losses.fenchel_young(losses.shannon()))
ledger = theory.sgd_ledger(objective, NUM_EXAMPLES)


@jax.jit
def step(params, state, batch):
    loss, gradient = jax.value_and_grad(objective)(params, batch)
    new = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient)
    new_risk = objective(new, full)
    return new, ledger.update_exact(state, params, new, batch, new_risk, loss=loss, gradient=gradient), new_risk


def run(batch_size):
    """NUM_STEPS steps without replacement within an epoch; the ledger's report and the risks."""
    params, rng = model.params, np.random.default_rng(0)
    state = ledger.init(objective(params, full))
    order, risks = np.zeros(0, int), [float(objective(params, full))]
    for _ in range(NUM_STEPS):
        if len(order) < batch_size:
            order = rng.permutation(NUM_EXAMPLES)
        chosen, order = order[:batch_size], order[batch_size:]
        params, state, risk = step(params, state, jax.tree.map(lambda x, c=chosen: x[c], full))
        risks.append(float(risk))
    return ledger.report(state), np.array(risks)


# %%
reports = {size: run(size) for size in BATCH_SIZES}
rows = []
for size, (report, risks) in reports.items():
    near = report.neighbourhoods(LEARNING_RATE, NUM_EXAMPLES)
    first = NUM_EXAMPLES * (risks[0] - risks[-1]) / (size * NUM_STEPS * near.coefficient)
    rows.append((size, report, near, first, risks[-1]))
    assert report.mean_gradient <= first + near.mean_change + 1e-4

print(
    "| m | mean abs(∇R_B)² | mean D | bound, mean D | max D | max abs D | paper | min c | L | identity residual | final risk |"
)
print("|---|---|---|---|---|---|---|---|---|---|---|")
for size, report, near, first, risk in rows:
    print(
        f"| {size} | {report.mean_gradient:.4g} | {report.mean_change:.2g} | {first + near.mean_change:.4g} | {first + near.max_change:.4g} "
        f"| {first + near.max_abs_change:.4g} | {first + near.paper:.4g} | {report.min_coefficient:.3g} "
        f"| {report.smoothness:.3g} | {report.identity_residual:.1e} | {risk:.4f} |"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
sizes = [row[0] for row in rows]
left.plot(sizes, [r.mean_gradient for _, r, _, _, _ in rows], "o-", color="black", label="mean |∇R_B|², measured")
for name, label in (
    ("mean_change", "bound with mean D"),
    ("max_change", "with max D"),
    ("max_abs_change", "with max |D|"),
    ("paper", "4L form, with max |D|"),
):
    left.plot(sizes, [first + getattr(near, name) for _, _, near, first, _ in rows], "o--", label=label)
left.set_xscale("log", base=2)
left.set_yscale("log")
left.set_xlabel("batch size m")
left.set_ylabel("squared gradient  [loss² / parameter²]")
left.legend(fontsize=8)
for size, (_, risks) in reports.items():
    right.plot(risks, label=f"m = {size}", lw=1)
right.set_yscale("log")
right.set_xlabel("step")
right.set_ylabel("risk over all the data  [nats]")
right.legend(fontsize=8, ncols=2)
plt.show()

# %% [markdown]
# **What agrees.** The bound holds for every batch size, and its neighbourhood vanishes as $m \to n$. The exact identity
# holds to rounding (float32 here).
#
# **What does not.** The printed forms take the greatest change off the batch, and its absolute value: they are valid,
# and 17 to 51 times the bound with the mean of the changes at batch size 1, 1.6 to 4.8 times at 64; the mean is what the
# proof needs. The mean of $D_k$ is
# negative as long as training lowers the risk: then the second term helps, which no form with $|M|$ can say. The 4L
# form is stated for steps of $1/(2L)$; with $L$ measured, this step is another one, and the form is shown for scale.
# At batch size 1 steps are not uncorrelated with the rest of the data, as a reading of the source would have it.
#
# **What could not be checked.** The theorem of arXiv:2602.16177 in its own words: only a report of it is at hand.
