"""Laws of measuring: both sides in turn, and ways to be fast that leave the losses alone."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from command import forked
from tiny import BLIND, TINY, make, make_batch

from act.errors import ConfigError
from demos.record import RecordConfig
from scripts.benchmarks import learning
from scripts.benchmarks.learning import Mode, flops_per_sample, stepping
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.roofline import cost
from scripts.benchmarks.simulation import demonstrator_successes
from scripts.benchmarks.timing import Case, measure, table

CPU = torch.device("cpu")
bench = partial(forked, "bench.py")


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
    policy, found = make(replace(BLIND, use_vae=False)), []  # z is drawn in another order where it is compiled
    batch = make_batch()
    with stepping(policy, mode, CPU) as step:
        for _ in range(5):
            step(batch)
            torch.manual_seed(0)
            with torch.no_grad():
                found.append(policy(batch)["loss"].item())
    return found


@pytest.mark.parametrize(("mode", "tolerance"), [(Mode("bfloat16"), 1e-2), (Mode("float32", compile=True), 1e-5)])
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


def test_an_unknown_part_is_named(tmp_path):
    done = bench("--only", "trian", folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: unknown part 'trian'; known parts: train, infer, data, env")


def test_a_demonstrator_that_a_part_does_not_ask_for_is_refused(tmp_path):
    for part, flag, value in (("told", "--noise", "0.1"), ("families", "--operator", "plain")):
        done = bench("--only", part, flag, value, "--tiny", folder=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"error: {flag} is of experts")


def test_files_and_data_are_measured(tmp_path):
    done = bench("--only", "data,file", "--tiny", "--rounds", "1", "--json", "bench.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())}
    cached = rows["random samples, 48 x 64, cached"]
    assert cached["ours"]["median"] > cached["peers"]["the original's way"]["median"]
    assert rows["episode of 400 steps, top camera, 48 x 64: size"]["ours"]["median"] < 2


def test_the_gpu_report_runs_in_parts_at_a_tiny_size(tmp_path):
    """Two of its parts; rendering and the scripts that make a policy have tests of their own."""
    words = ("--gpu-report", "report", "--tiny", "--device", "cpu", "--only")
    for parts in ("train", "infer"):
        done = bench(*words, parts, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for part in ("train", "infer"):
        assert any(line.startswith(f"{part}: seconds, on CPU") for line in lines), part
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"train.json", "infer.json", "throughput.png", "profile.txt"}


def test_the_roofline_counts_what_a_step_does():
    small = replace(TINY, cameras=("top",))
    one, two = (cost(small, (48, 64), batch) for batch in (1, 2))
    policy = learning.make(small, (48, 64), CPU)
    flops = flops_per_sample(policy, learning.make_batch(policy.spec, policy.chunk_size, 1, CPU))
    assert two.flops == 2 * one.flops == 2 * flops
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    assert one.bytes > 4 * 4 * parameters, "weight, gradient and both moments are at least read"
    assert two.samples_per_s(1e12, 1e30) == pytest.approx(1e12 / flops)
    assert two.samples_per_s(1e30, 1e9) == pytest.approx(2 * 1e9 / two.bytes)


def test_an_operator_is_counted_task_after_task():
    told = demonstrator_successes(RecordConfig("", {}, demonstrator="plain"), seeds=2, workers=1)
    name, words = next(told)
    assert name == "transfer_cube: plain"
    assert words == "2 of 2 strict (95 % interval 34.2 to 100.0 %), 2 published"
