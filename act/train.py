"""The training loop, for a policy (`act.policies.policy`).

    for step in 1 … steps:
        batch step-1 of the shuffled starts → policy(batch)["loss"] → backward → clip → AdamW → moving average
        every log_every    means of the losses since the last time: the only wait for the device
        every val_every    losses on fixed starts of the validation episodes
        every eval_every   success of rollouts, if the caller passed a function that measures it
        every save_every   a checkpoint

A step is a function of the seed, the step number and the checkpointed state: every step seeds the random numbers anew.
So a resumed run repeats the losses of an uninterrupted one: bit for bit on a CPU, up to the order of floating point
sums on CUDA.

With torchrun, every process computes its share of each batch and all take the same step (DDP). The batches do not
depend on the number of processes, so a run can be resumed with another number. Random numbers within a step (dropout,
z) differ between processes. Rank 0 alone writes, validates and rolls out.
"""

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
from tqdm import tqdm

from act.checkpoint import describe, read_checkpoint, to_bytes, upgrade_optimizer, upgrade_state_dict
from act.dataset import ChunkDataset
from act.device import autocast, pick_device, pick_dtype
from act.distributed import ALONE, World, data_parallel
from act.ema import MovingAverage
from act.errors import ConfigError
from act.memory import memory_named
from act.policies.base import Batch
from act.policies.policy import Policy
from act.run_folder import RunFolder
from act.sampling import ShuffledStarts
from act.stopping import StopSignals
from act.stored_names import current_names
from act.train_config import TrainConfig
from act.training_errors import lost_processes_named, memory_advice, not_finite
from act.validation import Selection, is_due


class Trainer:
    """The training state, and the loop that advances it.

    Args:
        policy: freshly made, its normaliser fitted on the training split. It is moved to the device.
        dataset: its starts, with frames cached or not.
        config: the settings.
        folder: a claimed run folder. If it holds a checkpoint, training continues from there.
        evaluate: measures a policy in rollouts and returns figures, "success_rate" among them; every eval_every steps.
        log: called with each record of metrics, "step" among them, after it was written to the folder.
        world: the processes that train together; every one of them makes a Trainer.

    Raises:
        ConfigError: the checkpoint in the folder has other settings, or is beyond `config.steps`.
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
        self.log = log
        self.device = pick_device(world.device(config.device))
        self.dtype = pick_dtype(config.dtype, self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
            torch.backends.cudnn.benchmark = True  # all batches have the same shape
        self.policy = policy.to(self.device).train()
        averaged = config.ema_decay and world.is_main
        self.ema = MovingAverage(self.policy, config.ema_decay) if averaged else None
        groups = policy.parameter_groups(config.lr)
        self.highest_lr = [group["lr"] for group in groups]
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.step = 0
        self.selection = Selection(dataset, config, evaluate if config.eval_every else None)
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
        shares = {"accumulate": config.accumulate, "rank": world.rank, "size": world.size}
        order = ShuffledStarts(self.dataset.train, config.batch_size, config.seed, **shares)
        batches = self.dataset.batches(order, self.step, config.steps, self.device, config.num_workers)
        model = data_parallel(self.policy, self.device) if world.size > 1 else self.policy
        forward = torch.compile(model) if config.compile else model
        hidden = None if world.is_main else True  # None: where there is no terminal
        bar = tqdm(initial=self.step, total=config.steps, desc="training", unit="step", disable=hidden, smoothing=0.05)
        clock, clocked = time.perf_counter(), self.step
        with (
            StopSignals() as stop,
            bar,
            lost_processes_named(lambda: (self.step, self.kept())),
            memory_named(self._memory_advice),
        ):
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
                        nothing_measured = not self.selection.measures
                        self._save(is_best or nothing_measured)  # then the newest is the best
                    clock += time.perf_counter() - paused
                if stopped:
                    break
        return self.step == config.steps and not self.unmeasured

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
            self.ema.update(self.step)

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _due(self, every: int) -> bool:
        return is_due(self.step, every, self.config)

    def _means(self) -> dict[str, float]:
        """Means over processes and steps since the last log, which begin anew. Waits for the device."""
        self._check_finite()
        steps = self.sums.pop("steps")
        means = self.world.mean(torch.stack(list(self.sums.values())) / steps).tolist()
        names, self.sums = list(self.sums), {}
        return {f"train/{name}": mean for name, mean in zip(names, means, strict=True)}

    def _check_finite(self) -> None:
        # All processes have the same gradient: if it is not finite, all of them stop here.
        if self.sums and not torch.isfinite(self.sums["loss"] + self.sums["grad_norm"]):
            raise not_finite(self.step, self.config, self.kept())

    def _memory_advice(self) -> str:
        return memory_advice(self.config, self.device, self.dataset.frames.images, self.kept())

    def kept(self) -> str:
        """Which checkpoint remains if the run ends here, in words."""
        return f"{self.folder.last} is whole" if self.folder.last.exists() else "nothing was saved yet"

    def _measure_unless(self, stop: StopSignals) -> bool:
        """Validation and rollouts if they are due. Returns whether this is the best step so far.

        A signal breaks them off; a resumed run begins with them, then.

        Raises:
            Exception: of the rollouts. The step is saved before.
        """
        if not self.selection.due(self.step):
            return False
        self.unmeasured = True
        try:
            with stop.at_once(), self._inference() as policy:
                is_best = self.selection.measure(policy, self.step, self._record)
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

    @contextmanager
    def _inference(self) -> Iterator[Policy]:
        """The policy as its users get it, in evaluation mode."""
        policy = self.inference_policy().eval()
        torch.manual_seed(self.config.seed)
        try:
            yield policy
        finally:
            self.policy.train()

    def inference_policy(self) -> Policy:
        """The policy as its users get it: with averaged weights where there are any."""
        return self.policy if self.ema is None else self.ema.with_buffers()

    def _record(self, figures: dict[str, float]) -> None:
        if not self.world.is_main:
            return
        record = {"step": self.step, **figures}
        self.folder.append(record)
        self.log(record)

    def _save(self, is_best: bool) -> None:
        self._check_finite()
        ema = None if self.ema is None else self.inference_policy().state_dict()
        state = {
            **describe(self.policy),
            "weights": self.policy.state_dict(),
            "ema": ema,
            "step": self.step,
            "train_config": asdict(self.config),
            "optimizer": self.optimizer.state_dict(),
            "best": self.selection.best,
            "sums": self.sums,
            "unmeasured": self.unmeasured,
        }
        self.folder.save(self.step, to_bytes(state), is_best, self.config.keep_last)

    def _load(self, state: dict[str, Any]) -> None:
        before = current_names({**state.get("policy_config", {}), **state.get("train_config", {})})
        now = self.policy.settings.to_dict() | asdict(self.config)
        for name in sorted(before.keys() & now.keys() - self.config.free_on_resume):
            if before[name] != now[name]:
                raise ConfigError(
                    f"{self.folder.last} was trained with {name} {before[name]!r}, now it is {now[name]!r}; "
                    "continue with the same settings, or start anew in another --out"
                )
        try:
            self.policy.load_state_dict(upgrade_state_dict(state["weights"], self.policy))
            if self.ema is not None:
                self.ema.policy.load_state_dict(upgrade_state_dict(state["ema"], self.policy))
            groups = self.optimizer.param_groups
            self.optimizer.load_state_dict(upgrade_optimizer(state["optimizer"], state["weights"], groups, self.policy))
            self.step, self.selection.best = state["step"], state["best"]
            self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
            self.unmeasured = state.get("unmeasured", False)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self.folder.last} was written by another version of this policy; "
                "continue with that version, or start anew in another --out"
            ) from error
