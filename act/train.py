"""The optimisation loop, for any policy of `act.policies.base`.

    for step in 1 … steps:
        batch step-1 of the shuffled starts → policy(batch)["loss"] → backward → clip → AdamW → moving average
        every log_every    means of the losses since the last time: the only wait for the device
        every val_every    losses on fixed starts of the validation episodes
        every eval_every   success of rollouts, if the caller gave a way to measure it
        every save_every   a checkpoint

What happens in a step depends on nothing but the seed, the step number and the checkpointed state: random numbers
begin anew in every step. So a resumed run repeats the losses of one that was never stopped: bit for bit on a CPU, up to
the order of floating point sums on CUDA.

Started by torchrun, every process computes its share of each batch and all take the same step (DDP). The batches do
not depend on the number of processes, so a run may be resumed with another one; only what is random within a step
(dropout, z) is drawn by each process for itself. Rank 0 alone writes, validates and rolls out.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain, islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from act.checkpoint import describe, read_checkpoint, to_bytes
from act.dataset import ChunkDataset
from act.device import autocast, pick_device, pick_dtype
from act.distributed import ALONE, World, is_lost_process
from act.errors import ConfigError
from act.memory import memory_named
from act.policies.base import Batch, Policy
from act.reading import WITHOUT, lost_reader
from act.run_folder import RunFolder
from act.sampling import ShuffledStarts
from act.stopping import StopSignals
from act.train_config import TrainConfig


class Trainer:
    """Everything that changes while a policy is trained, and the loop that changes it.

    Args:
        policy: freshly made, its normaliser fitted on the training split. It is moved to the device.
        dataset: its starts, with frames cached or not.
        config: the settings.
        folder: a claimed run folder. If it holds a checkpoint, training continues from there.
        evaluate: measures a policy in rollouts and returns figures, "success_rate" among them; every eval_every steps.
        log: is given each record of metrics, "step" among them, after it was written to the folder.
        world: the processes that train together; every one of them makes a Trainer.
    """

    def __init__(
        self,
        policy: Policy,
        dataset: ChunkDataset,
        config: TrainConfig,
        folder: RunFolder,
        *,
        evaluate: Callable[[Policy], dict[str, float]] | None = None,
        log: Callable[[dict[str, float]], None] = lambda record: None,
        world: World = ALONE,
    ):
        self.config, self.dataset, self.folder, self.world = config, dataset, folder, world
        self.evaluate, self.log = evaluate if config.eval_every else None, log
        self.device = pick_device(world.device(config.device))
        self.dtype = pick_dtype(config.dtype, self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
            torch.backends.cudnn.benchmark = True  # all batches have the same shape
        self.policy = policy.to(self.device).train()
        averaged = config.ema_decay and world.is_main
        self.ema = copy.deepcopy(self.policy).eval().requires_grad_(False) if averaged else None
        groups = policy.parameter_groups(config.lr)
        self.highest_lr = [group["lr"] for group in groups]
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.step = 0
        self.best: float | None = None  # success rate, or validation L1 with its sign turned: higher is better
        self.unmeasured = False  # whether a signal broke off what is measured at this step
        self.sums: dict[str, Tensor] = {}  # of losses since the last log, on the device
        if folder.last.exists():
            self._load(read_checkpoint(folder.last))
            if self.step > config.steps:
                raise ConfigError(f"{folder.path} is at step {self.step} already; use --steps {self.step} or more")
        if world.is_main:
            folder.rewind(self.step)

    def run(self) -> bool:
        """Trains to the last step. Returns False if Ctrl-C or SIGTERM stopped it before: after a checkpoint, then.

        Raises:
            ConfigError: the loss is no longer finite, a file cannot be written, or another process was lost.
        """
        config, world = self.config, self.world
        order = ShuffledStarts(
            self.dataset.train,
            config.batch_size,
            config.seed,
            accumulate=config.accumulate,
            rank=world.rank,
            size=world.size,
        )
        batches = self.dataset.batches(order, self.step, config.steps, self.device, config.num_workers)
        model = self._parallel(self.policy) if world.size > 1 else self.policy
        forward = torch.compile(model) if config.compile else model
        bar = tqdm(
            initial=self.step,
            total=config.steps,
            desc="training",
            unit="step",
            disable=None if world.is_main else True,
            smoothing=0.05,
        )
        clock, clocked = time.perf_counter(), self.step
        with StopSignals() as stop, bar, _lost_processes_named(self), memory_named(self._needs):
            if self.unmeasured and world.is_main:
                self._save(self._measure_unless(stop))
            while self.step < config.steps:
                try:
                    with stop.at_once() if world.size == 1 else nullcontext():  # several must agree, see below
                        first = next(batches)  # a process that reads may be stuck
                except KeyboardInterrupt:
                    if not stop.asked:
                        raise
                    self._save(False)
                    break
                self.update(model, forward, chain([first], islice(batches, config.accumulate - 1)))
                bar.update()
                if self._due(config.log_every):
                    record = self._means()
                    rate = config.batch_size * (self.step - clocked) / (time.perf_counter() - clock)
                    record |= {"train/lr": self.optimizer.param_groups[0]["lr"], "train/samples_per_s": rate}
                    self._record(record)
                    bar.set_postfix(loss=f"{record['train/loss']:.4f}", samples_per_s=f"{rate:.0f}")
                    clock, clocked = time.perf_counter(), self.step
                stopped = world.any(stop.asked)
                if world.is_main:
                    paused = time.perf_counter()
                    is_best = self._measure_unless(stop)
                    stopped = stopped or (stop.asked and world.size == 1)  # others ask again after their next step
                    if is_best or stopped or self._due(config.save_every):
                        nothing_measured = self.evaluate is None and not len(self.dataset.val)
                        self._save(is_best or nothing_measured)  # then the newest is the best
                    clock += time.perf_counter() - paused
                if stopped:
                    break
        return self.step == config.steps and not self.unmeasured

    def _parallel(self, policy: Policy) -> DistributedDataParallel:
        """The policy as one of several that take the same steps."""
        module: nn.Module = policy
        norms = [m for m in policy.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
        if norms and self.device.type == "cuda":  # there is none for CPUs: each process then has its own statistics
            module = nn.SyncBatchNorm.convert_sync_batchnorm(policy)
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    def update(self, model: nn.Module, forward: Callable[[Batch], dict[str, Tensor]], parts: Iterable[Batch]) -> None:
        """One step with the mean gradient of this process' share of a batch, which comes in `accumulate` parts.

        `forward` is the model, compiled or not.
        """
        config = self.config
        self.step += 1
        torch.manual_seed(int(np.random.SeedSequence((config.seed, self.step, self.world.rank)).generate_state(1)[0]))
        scale = config.lr_scale(self.step)
        for group, lr in zip(self.optimizer.param_groups, self.highest_lr, strict=True):
            group["lr"] = lr * scale
        self.optimizer.zero_grad()
        for part, batch in enumerate(parts, start=1):
            alone = isinstance(model, DistributedDataParallel) and part < config.accumulate
            with cast(DistributedDataParallel, model).no_sync() if alone else nullcontext():
                with autocast(self.device, self.dtype):
                    losses = {name: loss / config.accumulate for name, loss in forward(batch).items()}
                losses["loss"].backward()
            self._add(losses)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip or math.inf)
        self._add({"grad_norm": norm, "steps": torch.ones_like(norm)})
        self.optimizer.step()
        if self.ema is not None:
            # Early on the average would remember the random start for 1 / (1 - decay) steps.
            decay = min(config.ema_decay, self.step / (self.step + 10))
            average = get_ema_multi_avg_fn(decay)
            pairs = zip(self.ema.parameters(), self.policy.parameters(), strict=True)
            theirs, mine = zip(*((ema, each) for ema, each in pairs if each.requires_grad), strict=True)
            average(list(theirs), list(mine), self.step)

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _means(self) -> dict[str, float]:
        """Means over processes and steps since the last log, which begin anew. Waits for the device."""
        self._check_finite()
        steps = self.sums.pop("steps")
        means = self.world.mean(torch.stack(list(self.sums.values())) / steps).tolist()
        names, self.sums = list(self.sums), {}
        return {f"train/{name}": mean for name, mean in zip(names, means, strict=True)}

    def _check_finite(self) -> None:
        # The gradient is everybody's: if it is not finite, all processes stop here.
        if self.sums and not torch.isfinite(self.sums["loss"] + self.sums["grad_norm"]):
            raise ConfigError(
                f"the loss or its gradient is no longer finite at step {self.step} (lr {self.config.lr:g}, grad_clip "
                f"{self.config.grad_clip:g}); a lower --lr, --grad-clip 1 or --dtype float32 would help; {self.kept()}"
            )

    def _needs(self) -> str:
        """What a step of this size takes, and what would take less, in words."""
        config = self.config
        parts = min(2 * config.accumulate, config.batch_size)
        smaller = [f"--accumulate {parts} takes the same step in smaller parts"] if parts > config.accumulate else []
        smaller += ["a smaller --batch-size"] if config.batch_size > 1 else ["a smaller policy"]
        frames = self.dataset.frames
        if frames and next(iter(frames.values())).device.type == "cuda":
            smaller.append("--cache ram")
        return (
            f"{self.device} has too little for a step of --batch-size {config.batch_size} with --accumulate "
            f"{config.accumulate}; {', or '.join(smaller)} would help; {self.kept()}"
        )

    def kept(self) -> str:
        """What is left of the run if it ends here, in words."""
        return f"{self.folder.last} is whole" if self.folder.last.exists() else "nothing was saved yet"

    def _measure_unless(self, stop: StopSignals) -> bool:
        """`_measure`, which a signal breaks off; a resumed run begins with it, then.

        Raises:
            Exception: of the rollouts. The step is saved before.
        """
        rolls_out = self.evaluate is not None and self._due(self.config.eval_every)
        if not rolls_out and not (len(self.dataset.val) and self._due(self.config.val_every)):
            return False
        self.unmeasured = True
        try:
            with stop.at_once():
                is_best = self._measure()
        except KeyboardInterrupt:
            if not stop.asked:
                raise
            return False
        except Exception:
            if stop.asked:  # the environments, say, have ended by the same signal
                return False
            self._save(False)
            raise
        self.unmeasured = False
        return is_best

    def _measure(self) -> bool:
        """Validation and rollouts if they are due. Returns whether this is the best step so far."""
        config, figures, score = self.config, {}, None
        if len(self.dataset.val) and self._due(config.val_every):
            with self._inference() as policy:
                figures = validate(policy, self.dataset, config, self.device, self.dtype)
            score = -figures["val/predict_l1"]
        measured = None
        if self.evaluate is not None:
            score = None
            if self._due(config.eval_every):
                with self._inference() as policy:
                    measured = self.evaluate(policy)
                score = measured["success_rate"]
        if figures:
            self._record(figures)
        if measured is not None:
            self._record({f"eval/{name}": value for name, value in measured.items()})
        if score is None or (self.best is not None and score < self.best):
            return False
        self.best = score
        return True

    @contextmanager
    def _inference(self) -> Iterator[Policy]:
        """The policy as its users will get it."""
        policy = self._inference_policy().eval()
        torch.manual_seed(self.config.seed)
        try:
            yield policy
        finally:
            self.policy.train()

    def _inference_policy(self) -> Policy:
        if self.ema is None:
            return self.policy
        for mine, theirs in zip(self.ema.buffers(), self.policy.buffers(), strict=True):
            mine.copy_(theirs)  # batch norm's statistics are averages already
        return self.ema

    def _record(self, figures: dict[str, float]) -> None:
        if not self.world.is_main:
            return
        record = {"step": self.step, **figures}
        self.folder.append(record)
        self.log(record)

    def _save(self, is_best: bool) -> None:
        self._check_finite()
        ema = None if self.ema is None else self._inference_policy().state_dict()
        state = {
            **describe(self.policy),
            "weights": self.policy.state_dict(),
            "ema": ema,
            "step": self.step,
            "train_config": asdict(self.config),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "sums": self.sums,
            "unmeasured": self.unmeasured,
        }
        self.folder.save(self.step, to_bytes(state), is_best, self.config.keep_last)

    def _load(self, state: dict[str, Any]) -> None:
        before = {**state.get("policy_config", {}), **state.get("train_config", {})}
        now = asdict(self.policy.config) | asdict(self.config)
        for name in sorted(before.keys() & now.keys() - self.config.free_on_resume):
            if before[name] != now[name]:
                raise ConfigError(
                    f"{self.folder.last} was trained with {name} {before[name]!r}, now it is {now[name]!r}; "
                    "continue with the same settings, or start anew in another --out"
                )
        try:
            self.policy.load_state_dict(state["weights"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]
            self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
            self.unmeasured = state.get("unmeasured", False)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self.folder.last} was written by another version of this policy; "
                "continue with that version, or start anew in another --out"
            ) from error


@torch.no_grad()
def validate(
    policy: Policy, dataset: ChunkDataset, config: TrainConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Losses on `config.val_starts` starts spread evenly over the validation episodes.

    Returns:
        "val/<part>": what `forward` gives in evaluation mode (for ACT with z from the posterior);
        "val/predict_l1": mean |error| of what the policy would do (for ACT with z = 0), in z-scores like the L1 in
        training; "val/diagnostics/…" of the first batch.
    """
    chosen = torch.linspace(0, len(dataset.val) - 1, min(config.val_starts, len(dataset.val))).long()
    figures: dict[str, float] = {}
    errors, cells = 0.0, 0
    for starts in dataset.val[chosen].split(config.batch_size):
        batch = dataset.gather(starts).to(device)
        with autocast(device, dtype):
            losses, predicted = policy(batch), policy.predict(batch.observation)
            if not figures:
                figures = {f"val/diagnostics/{name}": value for name, value in policy.diagnostics(batch).items()}
        for name, value in losses.items():
            share = value.item() * len(starts) / len(chosen)
            figures[f"val/{name}"] = figures.get(f"val/{name}", 0.0) + share
        error = policy.normalizer.normalize("action", predicted) - policy.normalizer.normalize("action", batch.action)
        errors += error[~batch.is_pad].abs().sum().item()
        cells += int((~batch.is_pad).sum()) * error.shape[-1]
    return figures | {"val/predict_l1": errors / cells}


@contextmanager
def _lost_processes_named(trainer: Trainer) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_lost_process(error):
            what, how = "another process was lost", ", with any number of processes"
        elif reader := lost_reader(error):
            what, how = reader, f"; {WITHOUT}"
        else:
            raise
        raise ConfigError(
            f"{what} at step {trainer.step}; {trainer.kept()}, --resume continues from there{how}"
        ) from error
