"""The live view of a training run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class TrainingBar:
    """Callback of `training.train`: a progress bar with time left, and a line for every validation."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, highlight=False)
        self.quiet = quiet
        self.bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[left]} left"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=1.0, step=0, loss=float("nan"), left="?")

    def __enter__(self) -> TrainingBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, event: dict) -> None:
        if event["event"] == "tick":
            left = event["seconds_left"]
            text = "?" if left is None else f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"
            self.bar.update(self.task, completed=event["progress"], step=event["step"], loss=event["loss"], left=text)
        elif event["event"] == "validation" and not self.quiet:
            figures = ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("event", "step"))
            self.console.print(f"step {event['step']}: {figures}")
