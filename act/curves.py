"""The curves of a training run as one picture."""

from pathlib import Path

from matplotlib.figure import Figure

from act.run_folder import RunFolder

PANELS = {
    "loss": ("train/loss", "val/loss"),
    "L1 (z-scores)": ("train/l1", "val/l1", "val/predict_l1"),
    "KL (nats)": ("train/kl", "val/kl"),
    "object poses, L1 (z-scores)": ("train/pose", "val/pose"),
    "success rate": ("eval/success_rate", "eval/success_rate_published"),
    "gradient norm": ("train/grad_norm",),
    "learning rate": ("train/lr",),
}
"""Title → the metrics that it shows; a panel with nothing but zeros (the KL without a VAE, say) is left out."""


def plot_curves(folder: RunFolder) -> Path:
    """Draws metrics.jsonl over steps. Returns the path of the PNG."""
    history = folder.history()
    lines = {
        name: [(record["step"], record[name]) for record in history if name in record]
        for names in PANELS.values()
        for name in names
    }
    panels = {
        title: names for title, names in PANELS.items() if any(value for name in names for _, value in lines[name])
    }
    figure = Figure(figsize=(5 * min(3, max(1, len(panels))), 3.5 * max(1, -(-len(panels) // 3))), layout="constrained")
    for i, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(-(-len(panels) // 3), min(3, len(panels)), i + 1, title=title, xlabel="step")
        for name in names:
            if lines[name]:
                axes.plot(*zip(*lines[name], strict=True), label=name, marker="." if len(lines[name]) < 30 else "")
        if names[0] in ("train/loss", "train/l1", "train/kl", "train/pose"):
            axes.set_yscale("log")
        axes.legend()
    figure.savefig(folder.curves, dpi=100)
    return folder.curves
