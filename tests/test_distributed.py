"""Laws of several processes: together they do what one does alone; none is lost silently.

torchrun itself starts one of the runs here; the other ones are forks with the environment that it gives, which load no
libraries. Gradients agree to 1e-5 relative, 1e-6 absolute: sums in another order. Curves of some steps agree to 1e-3.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import RECORD, functions, ranks, roll_out
from messages import refusal, says
from test_training import curve, make_trainer
from tiny import NO_IMAGES, write_episodes

from act.checkpoint import load_policy
from act.distributed import join_world
from act.policies.generators.config import RegressionConfig
from act.sampling import ShuffledStarts
from demos.episode import Episode, find_episodes
from scripts import train as script

ROOT = Path(__file__).parents[1]
CERTAIN = {**NO_IMAGES, "dropout": 0.0, "generator": RegressionConfig()}
"""Settings of a policy without anything random in a step."""


def words(text: str) -> list[str]:
    return text.split()


FLAGS = words(
    "--cameras --use-env-state --policy regression --dropout 0 --chunk-size 6 --d-model 16 --n-heads 2 --ffn-dim 32 "
    "--batch-size 12 --schedule constant --log-every 2 --val-every 4 --save-every 4 "
    "--device cpu --dtype float32 --wandb disabled"
)


def torchrun(processes: int, *words: object) -> list[str]:
    engine = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*engine, *map(str, words)]


def run(size: int, script: str, *words: object) -> str:
    """A script in so many processes: what rank 0 prints; the others print nothing."""
    first, *others = ranks(size, script, *words, folder=ROOT)
    for done in (first, *others):
        assert done.returncode == 0, done.stderr
    assert [done.stdout for done in others] == [""] * (size - 1)
    return first.stdout


def train(*flags: str) -> None:
    assert script.main(script.parse(list(flags))) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"))


def one_step(data: Path, out: Path, accumulate: int) -> None:
    """A rank's share of a step; its gradients go into a file."""
    with join_world() as world:
        folder = out / str(world.rank)
        settings: Any = dict(batch_size=12, accumulate=accumulate, steps=1, warmup_steps=0)
        trainer = make_trainer(data, folder, policy_settings=CERTAIN, world=world, **settings)
        trainer.run()
        torch.save([p.grad for p in trainer.policy.parameters()], out / f"gradient_{world.rank}.pt")


def test_gradients_of_three_processes_that_accumulate_are_those_of_one_step_of_one(data, tmp_path):
    alone = make_trainer(data, tmp_path / "alone", policy_settings=CERTAIN, batch_size=12, steps=1, warmup_steps=0)
    batch = alone.dataset.gather(ShuffledStarts(alone.dataset.train, 12, alone.config.seed).batch(0))
    assert batch.is_pad.any(), "shares with as many valid steps each would prove little"
    alone.run()
    for done in functions(3, one_step, data, tmp_path, 2, folder=tmp_path):
        assert done.returncode == 0, done.stderr
    for rank in range(3):
        gradients = torch.load(tmp_path / f"gradient_{rank}.pt")
        for parameter, gradient in zip(alone.policy.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-6)


def confer(out: Path) -> None:
    """What a rank hears from the others."""
    with join_world() as world:
        mean = world.mean(torch.tensor([float(world.rank)])).item()
        heard = [world.any(world.rank == 1), world.any(False), mean, world.gather(world.rank)]
        (out / f"{world.rank}.json").write_text(json.dumps(heard))


def test_every_process_gets_what_holds_for_all_of_them(tmp_path):
    for done in functions(3, confer, tmp_path, folder=tmp_path):
        assert done.returncode == 0, done.stderr
    for rank in range(3):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [True, False, 1.0, [0, 1, 2]]


def test_a_run_of_two_processes_is_resumed_by_one(data, tmp_path):
    flags = ["--data", str(data), *FLAGS]
    train(*flags, "--out", str(tmp_path / "whole"), "--steps", "16")
    told = run(2, "train.py", *flags, "--out", tmp_path / "run", "--steps", 8, "--accumulate", 2)
    assert "2 processes" in told
    assert told.count("checkpoints: ") == 1
    train(*words(f"--out {tmp_path}/run --resume --steps 16 --wandb disabled"))
    whole, resumed = curve(tmp_path / "whole"), curve(tmp_path / "run")
    assert len(whole) == len(resumed)
    for one, other in zip(whole, resumed, strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_a_lost_process_ends_the_run_and_the_last_checkpoint_is_whole(data, tmp_path):
    out = tmp_path / "run"
    command = torchrun(2, "scripts/train.py", "--data", data, *FLAGS, "--out", out, "--steps", 100_000)
    engine = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (out / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    [victim] = [pid for pid in children(engine.pid) if b"RANK=1" in environment(pid)]
    os.kill(victim, signal.SIGKILL)
    _, told = engine.communicate(timeout=120)
    assert engine.returncode != 0
    assert says(told, "error: another process was lost", out / "last.pt", "--resume")
    load_policy(out, "cpu")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_recording_and_rollouts_do_not_depend_on_the_number_of_processes(line, tmp_path):
    told = run(2, "record.py", *RECORD, "--workers", 1, "--out", tmp_path / "data")
    assert told.count("3 episodes") == 1
    one, two = find_episodes(line.data), find_episodes(tmp_path / "data")
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(Episode(a).action, Episode(b).action)
        assert Episode(a).seed == Episode(b).seed
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [path.name for path in two]

    roll = words(f"--checkpoint {line.run} --episodes 5 --num-envs 1 --horizon 30")
    roll_out(*roll, "--json", tmp_path / "one.json")
    told = run(2, "rollout.py", *roll, "--device", "cpu", "--json", tmp_path / "two.json")
    assert told.count("seeds 100000 to 100004") == 1
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["episodes"] for name in ("one", "two"))
    assert one == two


def test_a_batch_that_cannot_be_shared_is_refused():
    starts = torch.arange(40)
    order = ShuffledStarts(starts, 12, 0, accumulate=2, rank=1, size=3)
    shares = [ShuffledStarts(starts, 12, 0, accumulate=2, rank=rank, size=3)[i][0] for i in (0, 1) for rank in range(3)]
    assert torch.equal(torch.cat(shares), order.batch(0))
    line = refusal(lambda: ShuffledStarts(starts, 10, 0, accumulate=2, size=3))
    assert says(line, "batch_size", 10, "3 processes", "--accumulate 2", "multiple of 6")
