"""The loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_history(history: list[dict[str, Any]], path: Path) -> None:
    """Training and validation loss over epochs, with the validation perplexity per word beside them, as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = [record["epoch"] for record in history]
    axes.plot(
        epochs, [record["train_loss_per_token"] for record in history], marker=".", label="training (with dropout)"
    )
    axes.plot(epochs, [record["valid_loss_per_token"] for record in history], marker=".", label="validation")
    axes.set(xlabel="epoch", ylabel="loss, nats per token")
    axes.grid(alpha=0.3)
    last = history[-1]["valid_perplexity_per_word"]
    axes.set_title(f"validation perplexity per word: {last:.1f}", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=120)
