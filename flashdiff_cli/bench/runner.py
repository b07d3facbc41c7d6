"""The loop: every arm on the same measurements, one record each, resumable after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.bench.arms import Batch, Identities, Outcome, Plan, describe_assumed, encoder_of, plan, run
from flashdiff_cli.bench.dataset import Case, Item, batches, degrade
from flashdiff_cli.bench.metrics import FOLDER, Measures
from flashdiff_cli.bench.protocol import SEVERITY, Condition, Protocol
from flashdiff_cli.bench.records import BenchRecord, Log, image_path
from flashdiff_cli.errors import FlashdiffError, NotApplicable, UsageError
from flashdiff_cli.pictures.files import Picture, write_picture
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import SamplingRequest
from flashdiff_cli.version import __version__

Watch = Callable[[str, float, float | None], None]
"""Called with (what is done now, share of the work done, seconds left or None)."""

NOT_FINITE = "the result holds values that are not finite: the solver's settings do not suit this model or condition"


@dataclass
class Work:
    """How far a bench is and how long the rest may take: each arm at its own seconds for a step."""

    units: dict[str, float] = field(default_factory=dict)
    """Steps that are still to be run, by arm."""
    total: float = 0.0
    spent: dict[str, list[float]] = field(default_factory=dict)
    """[seconds, steps] by arm."""

    def expect(self, arm: str, steps: float) -> None:
        self.units[arm] = self.units.get(arm, 0.0) + steps
        self.total += steps

    def finish(self, arm: str, steps: float, seconds: float) -> None:
        self.units[arm] -= steps
        seen = self.spent.setdefault(arm, [0.0, 0.0])
        seen[0], seen[1] = seen[0] + seconds, seen[1] + steps

    def share(self, running: float = 0.0) -> float:
        """Return the share of the whole work, 0 to 1; `running` steps of the present arm are run."""
        return 1.0 if not self.total else 1 - (sum(self.units.values()) - running) / self.total

    def left(self, arm: str | None = None, running: float = 0.0, elapsed: float = 0.0) -> float | None:
        """Return the seconds that are left; None before anything is known. The present arm has run `running` steps in `elapsed` seconds."""
        spent = {name: list(seen) for name, seen in self.spent.items()}
        if arm is not None and running:
            seconds, steps = spent.get(arm, (0.0, 0.0))
            spent[arm] = [seconds + elapsed, steps + running]
        total = [sum(column) for column in zip(*spent.values(), strict=True)]
        if not total or not total[1]:
            return None
        rates = {name: seconds / steps for name, (seconds, steps) in spent.items() if steps}
        waiting = self.units | ({arm: self.units[arm] - running} if arm is not None else {})
        return sum(n * rates.get(name, total[0] / total[1]) for name, n in waiting.items())


class Bench:
    """A protocol on one model and a set of pictures.

    Args:
        protocol: the whole of it: what records are compared with may come from another run.
        selected: the part of it (`Protocol.select`) that is run.
        pipeline: the model.
        model: its name, as the user gave it.
        items: the pictures.
        folder: for records and images; what is there already is not done again.
        batch: measurements at once.
        save_images: write the images of the first so many pictures.
        dtype: of the model's weights, for records.

    Raises:
        UsageError: an arm asks for what the model does not have; or two pictures would share the name of an image.
        FlashdiffError: the folder cannot be used.
    """

    def __init__(
        self,
        protocol: Protocol,
        selected: Protocol,
        pipeline: FlashDiffusionPipeline,
        model: str,
        items: Sequence[Item],
        folder: str | Path,
        batch: int = 1,
        save_images: int = 0,
        dtype: str = "float32",
    ):
        self.protocol, self.selected = protocol, selected
        self.pipeline, self.model, self.items = pipeline, model, list(items)
        self.folder, self.batch, self.dtype = Path(folder), batch, dtype
        self.plans = {
            c.name: [plan(arm, protocol, pipeline, model, c.assumption[0], c.most_noise) for arm in selected.arm] for c in selected.condition
        }
        self.measures = Measures(protocol.metrics, pipeline.unet.device)
        # The distance of two sets of pictures is taken between files, so that a resumed bench has all of them.
        whole = any(name in FOLDER for name in self.measures.usable)
        saved = self.items if whole else self.items[:save_images]
        names = [Path(item.below).with_suffix("").as_posix() for item in saved]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"{twice[0]}: two pictures of this name; images saved for both would collide, so rename one")
        self._saved = {item.below for item in saved}
        self.log = Log(self.folder)
        identities = Identities(pipeline)
        cells = [(c, p) for c in selected.condition for p in self.plans[c.name]]
        self.settings = {(c.name, p.arm.name): identities.settings(p, c, protocol) for c, p in cells}
        for c in selected.condition if selected.levels else ():
            self.settings[c.name, SEVERITY] = identities.sweep(c, protocol)
        self.work = Work()

    def _is_done(self, condition: str, arm: str, item: Item, level: float | None = None) -> bool:
        found = self.log.records.get((condition, arm, item.below, None if level is None else round(level, 6)))
        if found is None or (found.digest, found.height, found.width) != (item.digest, *item.size) or found.status == "failed":
            return False
        if found.settings != self.settings[condition, arm]:
            return False
        if found.status == "skipped" or arm == SEVERITY:
            return True
        # A measure or an image that an earlier run was not asked for makes its record incomplete.
        if any(getattr(found, name) is None for name in self.measures.usable if name not in FOLDER):
            return False
        return item.below not in self._saved or image_path(self.folder, condition, item.below, arm).exists()

    def _sweep_left(self, condition: Condition, item: Item) -> bool:
        n = self.selected.levels
        return n > 0 and not all(self._is_done(condition.name, SEVERITY, item, j / (n - 1)) for j in range(n))

    def todo(self) -> list[tuple[str, str, int]]:
        """Return (condition, arm, pictures that are left), the severity sweep among them."""
        rows = []
        for c in self.selected.condition:
            for p in self.plans[c.name]:
                rows.append((c.name, p.arm.name, sum(not self._is_done(c.name, p.arm.name, i) for i in self.items)))
            if self.selected.levels:
                rows.append((c.name, SEVERITY, sum(self._sweep_left(c, i) for i in self.items)))
        return rows

    def run(self, watch: Watch = lambda *_: None, stopped: Callable[[], bool] = lambda: False) -> Iterator[BenchRecord]:
        """Do what is left; records come as they are made and are in the log then.

        Args:
            watch: told how far it is.
            stopped: asked before each arm of a batch; once it is true the rest is left.
        """
        # What an arm takes in one condition stands for all.
        steps = {p.arm.name: p.expected_steps for plans in self.plans.values() for p in plans} | {SEVERITY: 0.5 * self.selected.levels}
        for _, arm, count in self.todo():
            self.work.expect(arm, count * steps[arm])
        for condition in self.selected.condition:
            for items in batches(self.items, self.batch):
                plans = self.plans[condition.name]
                left = {p.arm.name: [i for i in items if not self._is_done(condition.name, p.arm.name, i)] for p in plans}
                sweep = [item for item in items if self._sweep_left(condition, item)]
                if not sweep and not any(left.values()):
                    continue
                cleans = {item.below: item.image() for item in items}
                for item in sweep:
                    if stopped():
                        return
                    work = partial(self._sweep, condition, item, cleans[item.below])
                    yield from self._timed(SEVERITY, condition, [item], steps, watch, lambda step, work=work: work())
                for p in plans:
                    mine = left[p.arm.name]
                    if not mine:
                        continue
                    if stopped():
                        return
                    yield from self._timed(p.arm.name, condition, mine, steps, watch, partial(self._arm, p, condition, mine, cleans))

    def _timed(
        self, arm: str, condition: Condition, items: Sequence[Item], steps: dict[str, float], watch: Watch, function: Callable
    ) -> list[BenchRecord]:
        """Return the records of one arm on one batch, logged, with its share of the work counted."""
        expected = steps[arm] * len(items)
        what = f"{condition.name}, {arm}"

        begin = time.perf_counter()

        def step(done: int, total: int) -> None:
            running = expected * done / max(total, 1)
            watch(what, self.work.share(running), self.work.left(arm, running, time.perf_counter() - begin))

        watch(what, self.work.share(), self.work.left())
        records = function(step)
        self.work.finish(arm, expected, time.perf_counter() - begin)
        for record in records:
            self.log.add(record)
        watch(what, self.work.share(), self.work.left())
        return records

    def _record(self, condition: Condition, arm: str, item: Item, **values: Any) -> BenchRecord:
        known: dict[str, Any] = {"protocol": self.protocol.name, "condition": condition.name, "arm": arm}
        known |= {"image": item.below, "digest": item.digest}
        known |= {"height": item.size[0], "width": item.size[1], "seed": self.protocol.seed, "model": self.model}
        known |= {"device": str(self.pipeline.unet.device), "dtype": self.dtype, "version": __version__}
        known["settings"] = self.settings[condition.name, arm]
        return BenchRecord(**(known | values))

    def _truth(self, case: Case) -> dict[str, Any]:
        operator = {"name": case.operator.name, **case.operator.describe()}
        return {"level": round(case.level, 6), "operator": operator, "noise_std": case.noise_std}

    def _arm(self, plan: Plan, condition: Condition, items: list[Item], cleans: dict, step: Callable[[int, int], None]) -> list[BenchRecord]:
        """Return the records of an arm on pictures of equal size; what does not fit or fails is recorded as such."""
        name = plan.arm.name
        try:
            cases = [degrade(item, cleans[item.below], condition, self.protocol.seed) for item in items]
        except FlashdiffError as error:
            if len(items) > 1:
                return [r for item in items for r in self._arm(plan, condition, [item], cleans, step)]
            return [self._record(condition, name, items[0], status="failed", error=str(error))]
        try:
            batch = Batch.of(cases, condition.most_noise)
        except UsageError:
            return [r for item in items for r in self._arm(plan, condition, [item], cleans, step)]
        facts = [self._truth(case) for case in cases]
        try:
            outcome = run(plan, batch, self.pipeline, step)
        except (FlashdiffError, RuntimeError, MemoryError) as error:
            if not isinstance(error, (FlashdiffError, MemoryError)) and "memory" not in str(error).lower():
                raise
            status = "skipped" if isinstance(error, NotApplicable) else "failed"
            why = str(error) if isinstance(error, FlashdiffError) else "not enough memory; use a smaller `batch` or `size`"
            return [
                self._record(condition, name, item, status=status, error=why, assumed=assumed, **fact)
                for item, fact, assumed in zip(items, facts, describe_assumed(batch), strict=True)
            ]
        return self._records(plan, condition, batch, facts, outcome)

    def _records(self, plan: Plan, condition: Condition, batch: Batch, facts: list[dict[str, Any]], outcome: Outcome) -> list[BenchRecord]:
        count = len(batch.cases)
        seconds = {k: v / count for k, v in outcome.seconds.items()}
        seconds["total"] = float(sum(seconds.values()))
        columns = ("start_step", "steps", "network_evaluations", "variance", "error_variance")
        scores = self.measures(outcome.images, batch.clean)
        records = []
        for i, case in enumerate(batch.cases):
            values = {k: getattr(outcome, k)[i] for k in columns if getattr(outcome, k) is not None}
            if "variance" in values:
                values["severity"] = values["variance"] ** 0.5
            values |= facts[i] | scores[i]
            values |= {"assumed": outcome.assumed[i], "solver": plan.described_solver, "start": plan.arm.start}
            values |= {"schedule_steps": outcome.schedule_steps, "encoder": outcome.encoder, "fidelity": plan.fidelity}
            values["seconds"] = dict(seconds)
            if not bool(torch.isfinite(outcome.images[i]).all()):
                values |= dict.fromkeys(scores[i]) | {"status": "failed", "error": NOT_FINITE}
            elif case.item.below in self._saved:
                self._save(condition.name, case, plan.arm.name, outcome.images[i : i + 1])
            records.append(self._record(condition, plan.arm.name, case.item, **values))
        return records

    def _save(self, condition: str, case: Case, arm: str, image: torch.Tensor) -> None:
        # The first two again each time: those in the folder may be of another seed.
        for name, content in (("clean", case.clean), ("input", case.operator.resize_to_image(case.measurement)), (arm, image)):
            write_picture(Picture(content.float().cpu().clamp(-1, 1)), image_path(self.folder, condition, case.item.below, name))

    def _sweep(self, condition: Condition, item: Item, clean: torch.Tensor) -> list[BenchRecord]:
        """Return the severity at each of the protocol's levels, in one batch."""
        n = self.protocol.levels
        try:
            cases = [degrade(item, clean, condition, self.protocol.seed, (j, n)) for j in range(n)]
            name, _ = encoder_of(self.pipeline, condition.assumption[0], None, condition.most_noise)
            resized = torch.cat([case.operator.seen(case.measurement) for case in cases])
            begin = time.perf_counter()
            analysis = self.pipeline.analyse(resized, None, name)
            seconds = (time.perf_counter() - begin) / n
            with torch.no_grad():
                target = self.pipeline.stage.encode(clean.to(analysis.latent))
        except FlashdiffError as error:
            status = "skipped" if isinstance(error, NotApplicable) else "failed"
            levels = [round(j / (n - 1), 6) for j in range(n)]
            return [self._record(condition, SEVERITY, item, level=t, status=status, error=str(error)) for t in levels]
        error = (analysis.latent - target).float().square().mean((1, 2, 3)).tolist()
        chosen = self.pipeline.plan(SamplingRequest(encoder=name), condition.assumption[0])
        starts = chosen.matched_step(analysis.variance).tolist()
        records = []
        for case, variance, true, start in zip(cases, analysis.variance.float().tolist(), error, starts, strict=True):
            values = self._truth(case) | {"variance": variance, "severity": variance**0.5, "error_variance": true}
            values |= {"start_step": start, "schedule_steps": len(chosen.schedule), "encoder": name}
            values |= {"seconds": {"severity": seconds, "total": seconds}}
            records.append(self._record(condition, SEVERITY, item, **values))
        return records

    def current(self) -> list[BenchRecord]:
        """Return the latest record of each measurement and arm in the folder, those of earlier runs among them."""
        return list(self.log.records.values())
