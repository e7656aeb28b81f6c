"""The recipe as a function: demonstrations → dataset → policy → normaliser → cache → training loop → run folder.

    from act.fit import fit
    from act.presets import settings

    policy_config, train_config = settings("cpu")
    result = fit("data/transfer_cube", policy_config, train_config, "runs/cube", say=print)

The folder is one of scripts/train.py: `train.py --out runs/cube --resume` continues it, rollout.py rolls it out.
A script that logs the settings, or checks them, between the two halves calls `prepare` and `PreparedRun.train`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from act.checkpoint import read_checkpoint, start_from
from act.curves import plot_curves
from act.dataset import ChunkDataset
from act.device import pick_device
from act.distributed import ALONE, World
from act.language import InstructionEncoder
from act.memory import memory_named
from act.policies import Policy, PolicySettings, make_policy
from act.run_folder import SPEC, RunFolder, describe_data, find_checkpoint
from act.sampling import ShuffledStarts
from act.threads import Threads
from act.train import Trainer
from act.train_config import TrainConfig
from demos.episode import find_all_episodes
from demos.folder_lock import lock_folder
from demos.notes import dataset_notes

Evaluate = Callable[[Policy], dict[str, float]]
"""Measures a policy in rollouts: figures by name, "success_rate" among them."""


def silent(line: str) -> None:
    """Prints nothing."""


@dataclass(frozen=True)
class FitResult:
    """What a training has left.

    Attributes:
        policy: the policy of the last step in evaluation mode, with averaged weights where there are any.
        folder: its checkpoints, metrics and curves.
        step: the last step.
        finished: whether that is the last one of the settings; False: a signal stopped the training.
    """

    policy: Policy
    folder: RunFolder
    step: int
    finished: bool


def fit(
    data: Path | str | Sequence[Path | str],
    policy_config: PolicySettings,
    train_config: TrainConfig,
    out: Path | str,
    *,
    evaluate: Evaluate | None = None,
    log: Callable[[dict[str, float]], None] = lambda record: None,
    say: Callable[[str], None] = silent,
    resume: bool = False,
    init: Path | None = None,
    text_encoder: str = "",
) -> FitResult:
    """Trains a policy on demonstrations.

    Args:
        data: one or several folders of episodes, or episode files.
        policy_config: the settings of a policy, see `act.presets.settings` and `act.policies.PolicySettings`.
        train_config: the settings of the training.
        out: the run folder; new or empty, unless `resume`.
        evaluate: measures a policy in rollouts, every `train_config.eval_every` steps; best.pt is then the best by
            success rate.
        log: called with each record of metrics, "step" among them.
        say: called with each line for the user.
        resume: continue the run in the folder, if there is one.
        init: start from the weights of another run or checkpoint.
        text_encoder: the `module:function` that embeds instructions, if it is allowed to run; "minilm" always is.

    Raises:
        EpisodeError: an episode is damaged, or episodes differ.
        ConfigError: settings that do not fit the data or the folder, too little memory, a loss that is not finite.
    """
    folders = [data] if isinstance(data, (str, Path)) else list(data)
    threads = Threads(train_config.threads)
    with lock_folder(Path(out), "training"):
        run = prepare(
            folders, policy_config, train_config, out, resume=resume, init=init, text_encoder=text_encoder, say=say
        )
        run.claim(resume)
        return run.train(evaluate=evaluate, log=log, threads=threads)


@dataclass
class PreparedRun:
    """Everything before the training loop.

    Attributes:
        settings: what config.json holds.
        say: called with each line for the user, in rank 0 alone.
    """

    dataset: ChunkDataset
    policy: Policy
    config: TrainConfig
    folder: RunFolder
    settings: dict[str, Any]
    world: World
    say: Callable[[str], None]
    init: Path | None

    def claim(self, resume: bool = False) -> None:
        """Writes config.json into the run folder.

        Raises:
            ConfigError: the folder holds something else, see `RunFolder.claim`.
        """
        before = self.folder.settings() or {}
        if self.folder.last.exists():
            self.settings["init"] = before.get("init")
        self.world.on_main(lambda: self.folder.claim(self.settings, resume, self.config.free_on_resume))
        dataset, checksum = self.dataset, self.settings["data_checksum"]
        for note in dataset_notes(dataset.episodes):
            self.say(f"note: {note}")
        starts = f"{len(dataset.train)} starts to train on, {len(dataset.val)} to validate on"
        self.say(f"data: {starts}, from {len(dataset.episodes)} episodes")
        self.say(f"targets: {dataset.changes}")
        if before.get("data_checksum", checksum) != checksum:
            self.say("the episodes are unchanged, but this version derives other targets from them than the one before")
        if self.init is not None:
            self.say(f"starting from the weights of {find_checkpoint(self.init)}")
        parameters = sum(p.numel() for p in self.policy.parameters())
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        device = pick_device(self.world.device(self.config.device))
        self.say(f"policy: {parameters / 1e6:.1f} M parameters on {device}{processes}")

    def train(
        self,
        *,
        evaluate: Evaluate | None = None,
        log: Callable[[dict[str, float]], None] = lambda record: None,
        threads: Threads | None = None,
    ) -> FitResult:
        """Caches the frames and trains; see `fit`. Call `claim` before."""
        config, dataset, say = self.config, self.dataset, self.say
        device = pick_device(self.world.device(config.device))
        threads = threads or Threads(config.threads)

        def logged(record: dict[str, float]) -> None:
            log(record)
            say(threads.adapt())

        with memory_named(lambda: f"{device} has too little for this policy; use a smaller one, or --device cpu"):
            trainer = Trainer(
                self.policy, dataset, config, self.folder, evaluate=evaluate, log=logged, world=self.world
            )
        if trainer.step:
            say(f"continuing after step {trainer.step}")
        if trainer.step < config.steps:
            with memory_named(lambda: _cache_advice(dataset.frames.nbytes, config.cache, device.type)):
                say(dataset.cache(config.cache, device, self.world.local_size))
                say(threads.adapt())
                say(dataset.encode(self.policy, device))
        finished = trainer.run()
        if self.world.is_main:
            self._draw()
        return FitResult(trainer.inference_policy().eval(), self.folder, trainer.step, finished)

    def _draw(self) -> None:
        folder = self.folder
        try:
            self.say(f"curves: {plot_curves(folder)}")
        except OSError as error:
            reason = error.strerror or error
            self.say(f"curves: {folder.curves} cannot be written: {reason}; {folder.metrics} has the figures")


def prepare(
    data: Sequence[Path | str],
    policy_config: PolicySettings,
    train_config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    init: Path | None = None,
    text_encoder: str = "",
    extra_settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = silent,
    world: World = ALONE,
) -> PreparedRun:
    """Reads the demonstrations and builds the policy. Writes nothing.

    Args:
        extra_settings: of the caller, for config.json.
        world: the processes that train together; every one of them calls this.
        others: see `fit`.
    """
    config, folder = train_config, RunFolder(Path(out))
    pick_device(world.device(config.device))  # or it raises
    torch.manual_seed(config.seed)
    paths, notes = find_all_episodes(data)

    def say_once(line: str) -> None:
        if line and world.is_main:
            say(line)

    for note in notes:
        say_once(f"note: {note}")
    dataset = ChunkDataset(
        paths,
        policy_config.chunk_size,
        cameras=policy_config.cameras,
        learn_from=config.learn_from,
        val_fraction=config.val_fraction,
        seed=config.seed,
        drop_idle_steps=config.drop_idle_steps,
        drop_failed_grasps=config.drop_failed_grasps,
        beginning_fraction=config.beginning_fraction,
        instructed=bool(policy_config.text_encoder),
        jpeg_colors=config.jpeg_colors,
        robot=config.robot,
        action_semantics=config.action_semantics,
    )
    ShuffledStarts(dataset.train, config.batch_size, 0, accumulate=config.accumulate, size=world.size)  # or it raises
    start = None if folder.last.exists() else init
    policy = make_policy(policy_config, dataset.spec, pretrained=not folder.last.exists() and start is None)
    if policy.instruction_encoder is not None:
        resumed = folder.last if resume and folder.last.exists() else init
        policy.instruction_encoder = _instruction_encoder(policy_config, resumed, text_encoder)
        dataset.embed(policy.instruction_encoder, fit=init is None)
    policy.fit_normalizer(dataset.stats())
    policy.demonstrated_steps = dataset.timeline.longest - policy.chunk_size * config.drop_idle_steps
    if start is not None:
        start_from(policy, start)
    settings = {
        **describe_data([Path(each) for each in data], folder.path),
        "init": None if init is None else str(Path(init).absolute()),
        "policy": policy_config.policy,
        **(extra_settings or {}),
        **policy_config.to_dict(),
        **asdict(config),
        "episodes": len(dataset.episodes),
        "data_checksum": dataset.checksum(),
        "episodes_checksum": dataset.episodes_checksum(),
        **{f"{SPEC}{name}": value for name, value in dataset.spec.to_dict().items()},
    }
    return PreparedRun(dataset, policy, config, folder, settings, world, say_once, start)


def _instruction_encoder(policy_config: PolicySettings, source: Path | None, trusted: str) -> InstructionEncoder:
    """The encoder, with the vectors of the checkpoint that a run goes on from. It runs only if `trusted` names it, or
    if it is minilm."""
    stored = None if source is None else read_checkpoint(find_checkpoint(source)).get("sentences")
    stored = stored or {"encoder": policy_config.text_encoder, "dim": policy_config.text_dim}
    encoder = InstructionEncoder.from_checkpoint(stored)
    if trusted:
        encoder.trust(trusted)
    return encoder


def _cache_advice(size: int, cache: str, device: str) -> str:
    instead = "--cache ram or none" if device == "cuda" and cache != "ram" else "--cache none"
    return f"--cache {cache} keeps {size / 1e9:.2f} GB of frames and their features; {instead} would help"
