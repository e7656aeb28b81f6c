"""Laws of measuring: both sides in turn, and ways to be fast that leave the losses alone."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import BLIND, SPEC, TINY, make, make_batch, write_episodes
from torch.utils.flop_counter import FlopCounterMode

from act.errors import ConfigError
from act.policies.generators.config import RegressionConfig
from envs.results import wilson_interval
from scripts.bench import Args, main
from scripts.benchmarks import learning
from scripts.benchmarks.learning import Mode, stepping
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.roofline import cost
from scripts.benchmarks.simulation import demonstrator_successes, file_cases
from scripts.benchmarks.timing import Case, measure, table

CPU = torch.device("cpu")


def test_sides_are_measured_in_turn_and_ratios_favour_the_better():
    order, ours, theirs = [], iter([1.0, 3.0, 2.0]), iter([4.0, 8.0, 6.0])

    def take(name, values):
        def measured() -> float:
            order.append(name)
            return next(values)

        return measured

    [row] = measure([Case("a step", "ms", take("ours", ours), {"peer": take("peer", theirs)})], 3)
    assert order == ["ours", "peer"] * 3
    assert (row["ours"]["median"], row["ours"]["spread"], row["ratios"]["peer"]) == (2.0, 2.0, 3.0)
    [row] = measure([Case("steps", "steps/s", lambda: 6.0, {"peer": lambda: 2.0})], 1)
    assert row["ratios"]["peer"] == 3.0
    assert table([row]).splitlines()[1].split()[-1] == "3.00"


def losses(mode: Mode) -> list[float]:
    """Of five steps on one batch."""
    policy, found = (
        make(BLIND.replace(generator=RegressionConfig())),
        [],
    )  # z is drawn in another order where it is compiled
    batch = make_batch()
    with stepping(policy, mode, CPU) as step:
        for _ in range(5):
            step(batch)
            torch.manual_seed(0)
            with torch.no_grad():
                found.append(policy(batch)["loss"].item())
    return found


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [(Mode("bfloat16"), 1e-2), pytest.param(Mode("float32", compile=True), 1e-5, marks=pytest.mark.slow)],
)
def test_fast_ways_leave_the_losses_alone(mode, tolerance):
    assert losses(mode) == pytest.approx(losses(Mode()), rel=tolerance)


def test_a_peer_that_cannot_do_the_work_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"^--peer-python {tmp_path}/python does not start: No such file"):
        Peer(tmp_path / "python")
    with Peer(Path(sys.executable)) as peer, pytest.raises(ConfigError) as error:
        peer.ask("env", steps=1)
    assert str(error.value) == (
        f"the peer {sys.executable} cannot do env: ModuleNotFoundError: No module named 'gym_aloha'"
    )


@pytest.mark.parametrize(
    ("part", "named"), [("trian", "known parts: train, infer"), ("told", "experiment.py language")]
)
def test_an_unknown_part_and_one_that_is_an_experiment_now_are_named(part, named):
    with pytest.raises(ConfigError, match=f"{part}.*{named}"):
        main(Args(only=("env", part)))


def test_the_script_measures_prints_and_writes_its_parts(tmp_path, monkeypatch, capsys):
    case = Case("a frame", "ms", lambda: 2.0)
    monkeypatch.setattr("scripts.bench.cases_of", lambda part, *_: [case] if part == "file" else [])
    main(Args(only=("file,env",), rounds=2, json=tmp_path / "bench.json"))
    [row] = json.loads((tmp_path / "bench.json").read_text())
    assert (row["name"], row["ours"]["values"]) == ("a frame", [2.0, 2.0])
    assert "a frame" in capsys.readouterr().out


SMALL = TINY.replace(cameras=("top",))
SIZE = {"sizes": ((48, 64),), "config": SMALL}


def test_training_steps_and_inference_are_timed_in_every_mode_and_size():
    cases = learning.train_cases(None, CPU, (1, 2), steps=1, **SIZE)
    cases += learning.infer_cases(None, CPU, observations=(1, 3), times=1, **SIZE)
    rows = measure(cases, 1)
    names = {row["name"].rpartition(", ")[0] for row in rows}
    assert names == {f"{what}, batch {n}, 48 x 64" for what, n in (
        ("training step", 1), ("training step", 2), ("inference", 1), ("inference", 3))}  # fmt: skip
    assert all(row["ours"]["median"] > 0 for row in rows)


def test_what_the_memory_does_not_hold_is_not_a_number(monkeypatch):
    def refuse(*_):
        raise torch.OutOfMemoryError("no memory")

    [case, *_] = learning.train_cases(None, CPU, (4,), steps=1, **SIZE)
    monkeypatch.setattr(learning, "make", refuse)
    assert math.isnan(case.ours())


def test_files_and_random_samples_are_measured(tmp_path):
    spec = replace(SPEC, cameras={"top": (48, 64)})
    folder = write_episodes(tmp_path / "data", lengths=(30, 30), spec=spec)
    rows = measure([*file_cases([folder]), *learning.data_cases(None, [folder], CPU, chunk=6)], 1)
    medians = {row["name"]: row["ours"]["median"] for row in rows}
    path = folder / "episode_0.hdf5"
    assert medians["episode of 30 steps, top camera, 48 x 64: size"] == path.stat().st_size / 1e6
    assert all(median > 0 for median in medians.values())
    assert {name for name in medians if "samples" in name} == {
        "random samples, 48 x 64, cached",
        "random samples, 48 x 64, from files, 2 workers",
    }
    assert all(list(row["peers"]) == ["the original's way"] for row in rows if "samples" in row["name"])


def test_the_roofline_counts_what_a_step_does():
    small = SMALL
    two = cost(small, (48, 64), batch=2)
    policy = learning.make(small, (48, 64), CPU)
    with FlopCounterMode(display=False) as counter:
        policy.train()(learning.make_batch(policy.spec, policy.chunk_size, 1, CPU))["loss"].backward()
    flops = counter.get_total_flops()
    assert two.flops == 2 * flops
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    assert two.bytes > 4 * 4 * parameters, "weight, gradient and both moments are at least read"
    assert two.samples_per_s(1e12, 1e30) == pytest.approx(1e12 / flops)
    assert two.samples_per_s(1e30, 1e9) == pytest.approx(2 * 1e9 / two.bytes)


def test_a_demonstrator_is_counted_in_one_task_after_the_other():
    name, row = next(demonstrator_successes("plain", 0.0, seeds=2, workers=1))
    assert name == "transfer_cube: plain, noise 0"
    assert row == {"episodes": 2, "strict": 2, "published": 2, "interval": wilson_interval(2, 2)}
