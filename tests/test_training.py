"""Laws of training: what a step does depends on seed and number alone, and a kill costs no more than a few steps."""

import dataclasses
import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny import NO_IMAGES, TINY, write_episodes

from act.checkpoint import load_policy, read_checkpoint
from act.dataset import ChunkDataset
from act.device import pick_device, pick_dtype
from act.distributed import ALONE
from act.errors import ConfigError
from act.policies import Policy, PolicySettings, make_policy
from act.presets import PRESETS
from act.run_folder import RunFolder, write_atomically
from act.sampling import ShuffledStarts
from act.train import Trainer
from act.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
TRAIN = TrainConfig(
    steps=24,
    batch_size=4,
    lr=1e-3,
    schedule="cosine",
    warmup_steps=3,
    ema_decay=0.9,
    log_every=4,
    val_every=8,
    save_every=10,
    device="cpu",
    dtype="float32",
    num_workers=0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"))


def make_trainer(
    data: Path,
    out: Path,
    *,
    base: PolicySettings = TINY,
    policy_settings=NO_IMAGES,
    evaluate=None,
    log=None,
    world=ALONE,
    **settings,
) -> Trainer:
    config = dataclasses.replace(TRAIN, **settings)
    cameras = policy_settings.get("cameras", ())
    dataset = ChunkDataset(data, TINY.chunk_size, cameras=cameras, val_fraction=config.val_fraction, seed=config.seed)
    dataset.cache("ram", torch.device("cpu"))
    torch.manual_seed(config.seed)
    policy = make_policy(base.replace(**{"dropout": 0.1, **policy_settings}), dataset.spec)
    policy.fit_normalizer(dataset.stats())
    folder = RunFolder(out)
    folder.claim({}, resume=True, free=set())
    return Trainer(policy, dataset, config, folder, evaluate=evaluate, log=log or (lambda record: None), world=world)


def curve(folder: RunFolder | Path) -> list[dict[str, float]]:
    """The metrics without what depends on the clock."""
    history = RunFolder(folder).history() if isinstance(folder, Path) else folder.history()
    return [{name: value for name, value in record.items() if "per_s" not in name} for record in history]


def test_one_batch_can_be_learned_by_heart(data, tmp_path):
    trainer = make_trainer(
        data,
        tmp_path,
        policy_settings={**NO_IMAGES, "dropout": 0.0, "kl_weight": 0.01},
        steps=400,
        schedule="constant",
        lr=3e-3,
        val_fraction=0,
        save_every=400,
    )
    trainer.dataset.train = trainer.dataset.train[::20]
    assert trainer.run()
    history = trainer.folder.history()
    assert history[-1]["train/l1"] < 0.05 < 0.5 < history[0]["train/l1"]


def test_a_stopped_run_continues_as_if_it_had_not_been(data, tmp_path):
    whole = make_trainer(data, tmp_path / "whole")
    assert whole.run()

    def ctrl_c(record: dict[str, float]) -> None:
        if record["step"] == 12:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopped = make_trainer(data, tmp_path / "run", log=ctrl_c)
    assert not stopped.run()
    assert stopped.step == 12
    assert signal.getsignal(signal.SIGINT) is before
    resumed = make_trainer(data, tmp_path / "run")
    assert resumed.step == 12
    assert resumed.run()
    assert curve(resumed.folder) == curve(whole.folder)
    for one, other in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_validation_rollouts_and_logging_leave_the_training_alone(data, tmp_path):
    def evaluate(policy: Policy) -> dict[str, float]:
        assert not policy.training
        torch.rand(100)
        return {"success_rate": 0.5}

    quiet = make_trainer(data, tmp_path / "quiet", val_every=1000, save_every=1000, log_every=1000)
    busy = make_trainer(
        data, tmp_path / "busy", val_every=3, save_every=5, log_every=2, eval_every=2, evaluate=evaluate
    )
    for trainer in (quiet, busy):
        assert trainer.run()
    for one, other in zip(quiet.policy.parameters(), busy.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_ema_is_the_average_by_hand_and_takes_the_buffers(data, tmp_path):
    trainer = make_trainer(data, tmp_path, policy_settings={"cameras": None}, steps=5)
    expected = [p.detach().clone() for p in trainer.policy.parameters()]
    order = ShuffledStarts(trainer.dataset.train, 4, 0)
    for i in range(5):
        trainer.update(trainer.policy, trainer.policy, [trainer.dataset.gather(order.batch(i))])
        decay = min(0.9, (i + 1) / (i + 11))
        expected = [
            decay * old + (1 - decay) * new for old, new in zip(expected, trainer.policy.parameters(), strict=True)
        ]
    policy = trainer.inference_policy()
    assert trainer.ema is not None
    assert policy is trainer.ema.policy
    torch.testing.assert_close(list(policy.parameters()), expected)
    assert not any(p.requires_grad for p in policy.parameters())
    buffers = dict(policy.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in trainer.policy.named_buffers():
        assert torch.equal(buffers[name], buffer)


def test_learning_rate_rises_and_falls():
    config = TrainConfig(steps=100, warmup_steps=10, schedule="cosine", min_lr_ratio=0.1)
    scales = [config.lr_scale(step) for step in range(1, 101)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9] == 1
    assert scales[54] == pytest.approx(0.55)
    assert scales[99] == pytest.approx(0.1)
    assert scales[9:] == sorted(scales[9:], reverse=True)
    assert {TrainConfig(schedule="constant").lr_scale(step) for step in (1, 50, 99_999)} == {1.0}


def test_each_parameter_group_keeps_its_share(data, tmp_path):
    trainer = make_trainer(data, tmp_path, policy_settings={"cameras": None, "backbone_lr": 1e-4}, steps=3)
    assert trainer.run()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-3, 1e-4]  # the end of the warm-up


def test_the_best_checkpoint_is_the_best_by_success(data, tmp_path):
    rates = iter([0.2, 0.6, 0.4, 0.6, 0.1, 0.5])
    trainer = make_trainer(
        data, tmp_path, eval_every=4, keep_last=2, evaluate=lambda policy: {"success_rate": next(rates)}
    )
    assert trainer.run()
    folder = trainer.folder
    assert read_checkpoint(folder.best)["step"] == 16  # of equals the later one: it has trained for longer
    assert read_checkpoint(folder.last)["step"] == 24
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step_00000020.pt", "step_00000024.pt"]
    assert [r["eval/success_rate"] for r in folder.history() if "eval/success_rate" in r] == [
        0.2,
        0.6,
        0.4,
        0.6,
        0.1,
        0.5,
    ]


def test_without_rollouts_the_best_has_the_lowest_validation_error(data, tmp_path):
    trainer = make_trainer(data, tmp_path, val_every=4)
    assert trainer.run()
    errors = {r["step"]: r["val/predict_l1"] for r in trainer.folder.history() if "val/predict_l1" in r}
    assert read_checkpoint(trainer.folder.best)["step"] == min(errors, key=errors.__getitem__)


def test_without_anything_measured_the_newest_is_the_best(data, tmp_path):
    trainer = make_trainer(data, tmp_path, val_fraction=0)
    assert trainer.run()
    assert {read_checkpoint(path)["step"] for path in (trainer.folder.best, trainer.folder.last)} == {24}


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(data, tmp_path):
    trainer = make_trainer(data, tmp_path)

    def break_it(record: dict[str, float]) -> None:
        if record["step"] == 12:
            next(trainer.policy.parameters()).data.fill_(torch.nan)

    trainer.log = break_it
    with pytest.raises(ConfigError) as error:
        trainer.run()
    assert str(error.value) == (
        "the loss or its gradient is no longer finite at step 16 (lr 0.001, grad_clip 0); a lower --lr, --grad-clip 1 "
        f"or --dtype float32 would help; {tmp_path}/last.pt is whole"
    )
    assert read_checkpoint(trainer.folder.last)["step"] == 10
    assert all(p.isfinite().all() for p in load_policy(tmp_path, "cpu").parameters())


def test_a_full_disk_costs_nothing_that_was_written(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError) as error:
        write_atomically(path, b"new")
    assert str(error.value) == (
        f"{path} cannot be written: no space left on device; all that was written before is whole, "
        "--resume continues from there"
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_config_is_checked_when_it_is_built():
    for settings, text in [
        ({"steps": 0}, "steps is 0; it must be positive"),
        ({"lr": float("nan")}, "lr is nan; it must be positive"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be 0 or more"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and below 1"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio is 2.0; it must be from 0 to 1"),
        ({"schedule": "linear"}, "schedule is 'linear'; choose one of cosine, constant"),
    ]:
        with pytest.raises(ConfigError) as error:
            TrainConfig(**settings)  # pyright: ignore[reportArgumentType]
        assert str(error.value) == text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that must be missing")
def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError) as error:
        pick_device("cuda")
    assert str(error.value) == ("cuda was asked for, but this machine has no CUDA device; use --device cpu or auto")
    assert pick_device("auto") == torch.device("cpu")


def test_policy_and_training_settings_have_no_name_in_common():
    for policy, training in PRESETS.values():
        names = [field.name for config in (policy, training) for field in dataclasses.fields(config)]
        assert len(names) == len(set(names))


def test_precision_follows_what_pytorch_may_use(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for capability in ("AVX512", "AVX10_2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert pick_dtype("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
