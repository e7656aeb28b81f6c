"""A fuzzer: whatever is done to a file or a command line, there is a true answer or one line, never a traceback, a hang
or something else in the place of what was written.

Every trial runs in a process of its own, as a script would, and has 20 s. `pytest -n 0 -s tests/test_fuzz.py` prints
the counts; with `-m "slow or not slow"` there are several times as many. What no reader can notice is left out: a
number of metrics.jsonl, or of the settings in results.json, that became another number.
"""

import contextlib
import hashlib
import io
import json
import multiprocessing as mp
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from test_grippers import EACH, UNKNOWN, demonstration
from tiny import BLIND, SPEC, write_episodes

import scripts.compare
import scripts.inspect_data
import scripts.latent_plot
import scripts.record
import scripts.replay
import scripts.rollout
import scripts.train
from act.checkpoint import describe, load_policy, read_checkpoint, to_bytes
from act.grippers import find_failed_grasps
from act.policies import make_policy
from act.run_folder import RunFolder
from demos.episode import Episode
from demos.spec import ALOHA_JOINTS
from envs.results import EpisodeResult, read_results, summarize
from scripts.common import run

SECONDS = 20
FORK = mp.get_context("fork")
COUNTS: Counter[str] = Counter()


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: "answer", "line" (exit code 2 and one line), or what must not be."""

    kind: str
    text: str = ""


def tried(main: Callable[[Any], Any], words: list[str], parse: Any = lambda words: words) -> Outcome:
    """Runs a script's `main` behind the scripts' own wrapper, in a process of its own."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(send, main, words, parse))
    process.start()
    send.close()
    answered = receive.poll(SECONDS)
    if not answered:
        process.kill()
    process.join()
    try:
        code, out, err = receive.recv()
    except EOFError:
        return Outcome("crash", f"exit code {process.exitcode}") if answered else Outcome("hang")
    if not code:
        return Outcome("answer", out)
    # tyro has more than one line to say of a command line.
    told = "Traceback" not in err and (err.count("\n") == 1 or " ----" in err)
    return Outcome("line" if code == 2 and told else "traceback", err)


def _child(send: Any, main: Callable[[Any], Any], words: list[str], parse: Any) -> None:
    out, err, code = io.StringIO(), io.StringIO(), 1
    sys.argv = ["fuzz", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(main, parse)
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            err.write(f"Traceback: {error!r}")
    send.send((code, out.getvalue(), err.getvalue()))
    send.close()
    os._exit(0)


def judge(what: str, mutation: str, outcome: Outcome, truth: str | None = None) -> None:
    """Counts a trial; a wrong end fails the test. With `truth`, an answer must be it; with "" there may be none."""
    COUNTS[f"{what}: {outcome.kind}"] += 1
    assert outcome.kind in ("answer", "line"), f"{mutation}: {outcome.kind}\n{outcome.text}"
    if outcome.kind == "answer" and truth is not None:
        assert outcome.text == truth, f"{mutation}: accepted without a word"


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A mutation's name, and what it makes of a file's bytes."""
    place, length = rng.randrange(len(data)), rng.choice([1, 8, 64, 1000])
    kind = rng.choice(["flip", "flip", "flip", "cut", "zeros", "noise", "delete", "insert", "repeat"])
    noise = rng.randbytes(length)
    made = {
        "flip": lambda: data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
        "cut": lambda: data[:place],
        "zeros": lambda: data[:place] + bytes(len(data[place : place + length])) + data[place + length :],
        "noise": lambda: data[:place] + noise[: len(data) - place] + data[place + length :],
        "delete": lambda: data[:place] + data[place + length :],
        "insert": lambda: data[:place] + noise + data[place:],
        "repeat": lambda: data[:place] + data[max(0, place - length) : place] + data[place:],
    }[kind]()
    return f"{kind} at byte {place} of {len(data)}, length {length}", made


def show_episode(words: list[str]) -> None:
    episode, digest = Episode(words[0]), hashlib.sha256()
    for name in ("qpos", "qvel", "action", "expert_action", "env_state", "reward", "human", "effort"):
        values = getattr(episode, name)
        digest.update(name.encode() + (b"" if values is None else values.tobytes()))
    for camera in episode.spec.cameras:
        digest.update(episode.frames(camera).tobytes())
    print(digest.hexdigest(), episode.spec, episode.attributes, episode.action_offset)


@pytest.fixture(scope="module")
def episode(tmp_path_factory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"), lengths=(5,)) / "episode_0.hdf5"


@pytest.mark.parametrize("trials", [60, pytest.param(220, marks=pytest.mark.slow)])
def test_damaged_demonstrations(trials: int, episode, tmp_path):
    truth, rng, path = tried(show_episode, [str(episode)]).text, random.Random(1), tmp_path / "episode_0.hdf5"
    assert truth
    for _ in range(trials):
        mutation, data = damaged(episode.read_bytes(), rng)
        path.write_bytes(data)
        judge("demonstrations", mutation, tried(show_episode, [str(path)]), truth)


ARRAYS = ["action", "observations/qpos", "observations/qvel", "observations/env_state", "reward"]
NEEDED = [*ARRAYS[:3], "observations/images/top", "observations/images/wrist"]
VALUES: dict[str, Any] = {
    "NaN": np.nan, "infinite": np.inf, "huge": 1e30, "text": "many", "negative": -3, "list": [1, 2], "nothing": "",
    "bytes": b"\xff\xfe", "big": 2**62, "fraction": 0.5,
}  # fmt: skip
TYPED = {
    "fps": {"big", "fraction"}, "format_version": {"negative", "fraction"}, "seed": {"negative", "big"},
    "success": set(), "env_id": {"text", "nothing"}, "task": {"text", "nothing"}, "expert": {"text", "nothing"},
    "joint_names": set(), "cameras": set(), "success_published": set(), "action_layout": {"text", "nothing"},
}  # fmt: skip
"""Attribute → values that it may have."""


def test_demonstrations_of_another_shape(episode, tmp_path):
    def changed(mutation: str, change: Callable[[h5py.File], object], may_be: bool = False) -> None:
        path.write_bytes(episode.read_bytes())
        with h5py.File(path, "a") as file:
            change(file)
        outcome = tried(show_episode, [str(path)])
        judge("demonstrations", mutation, outcome)
        assert may_be or outcome.kind == "line", f"{mutation}: accepted without a word"

    def replaced(name: str, values: Any, **settings: Any) -> Callable[[h5py.File], object]:
        def change(file: h5py.File) -> None:
            del file[name]
            file.create_dataset(name, data=values, **settings)

        return change

    def replaced_by_link(name: str) -> Callable[[h5py.File], object]:
        def change(file: h5py.File) -> None:
            del file[name]
            file[name] = h5py.SoftLink("/nowhere")

        return change

    path = tmp_path / "episode_0.hdf5"
    whole: dict[str, np.ndarray] = {}
    with h5py.File(episode) as file:
        whole |= {name: np.asarray(file[name]) for name in ARRAYS}
    for name in NEEDED:
        changed(f"without {name}", lambda file, name=name: file.pop(name), may_be=name == "observations/qvel")
        changed(f"{name} is a group", lambda file, name=name: (file.pop(name), file.create_group(name)))
        changed(f"{name} links nowhere", replaced_by_link(name))
        changed(f"{name} is text", replaced(name, "hello"))
    for name, values in whole.items():
        changed(f"{name} is shorter", replaced(name, values[:-1]))
        changed(f"{name} has an axis more", replaced(name, values[..., None]))
        changed(f"{name} is empty", replaced(name, values[:0]))
        changed(f"{name} is whole numbers", replaced(name, values.astype(int)))
        for told, wrong in (("NaN", np.nan), ("infinite", np.inf), ("huge", 1e30)):
            if told == "huge" and name.split("/")[-1] in ("env_state", "reward"):
                continue  # whose sizes nobody knows
            damaged_values = values.copy()
            damaged_values.flat[-1] = wrong
            changed(f"{name} is {told}", replaced(name, damaged_values))
    for name, known in TYPED.items():
        for told, value in VALUES.items():
            changed(
                f"attribute {name} is {told}",
                lambda file, name=name, value=value: file.attrs.__setitem__(name, value),
                told in known,
            )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """As the original code writes it, with JPEG frames of one width and neither checksums nor our attributes."""
    path = tmp_path_factory.mktemp("foreign") / "episode_0.hdf5"
    rng, encoded = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(encoded, "JPEG")
    row = np.frombuffer(encoded.getvalue(), np.uint8)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        for name in ("action", "observations/qpos", "observations/qvel", "observations/effort"):
            file[name] = rng.normal(size=(5, 14)).astype(np.float32)
        file["base_action"] = rng.normal(size=(5, 2)).astype(np.float32)
        file["observations/images/top"] = np.tile(np.pad(row, (0, 9)), (5, 1))
    return path


@pytest.mark.parametrize("trials", [25, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_files_of_other_recorders(trials: int, foreign, tmp_path):
    rng, path = random.Random(7), tmp_path / "episode_0.hdf5"
    assert tried(show_episode, [str(foreign)]).kind == "answer"
    for _ in range(trials):
        mutation, data = damaged(foreign.read_bytes(), rng)
        path.write_bytes(data)
        judge("files of other recorders", mutation, tried(show_episode, [str(path)]))


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_files_of_other_recorders_with_other_attributes(every: int, foreign, tmp_path):
    """What such a file says of itself and nothing depends on never keeps it from being read."""
    path = tmp_path / "episode_0.hdf5"
    names = [*TYPED, "compress", "language_raw", "sim"]
    names.remove("format_version")  # with it, a file claims to be one of ours
    for i, name in enumerate(names):
        for told, value in list(VALUES.items())[i % every :: every]:
            path.write_bytes(foreign.read_bytes())
            with h5py.File(path, "a") as file:
                file.attrs[name] = value
            outcome = tried(show_episode, [str(path)])
            judge("files of other recorders", f"attribute {name} is {told}", outcome)
            lenient = name in ("success", "success_published", "seed", "expert", "task")
            assert not lenient or outcome.kind == "answer", f"attribute {name} is {told}: {outcome.text}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    policy = make_policy(BLIND, SPEC)
    path = tmp_path_factory.mktemp("run") / "last.pt"
    path.write_bytes(to_bytes({**describe(policy), "weights": policy.state_dict(), "ema": None, "step": 3}))
    return path


def show_policy(words: list[str]) -> None:
    policy, digest = load_policy(words[0], "cpu"), hashlib.sha256()
    for name, value in policy.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    print(digest.hexdigest(), policy.spec, policy.settings, policy.demonstrated_steps)


@pytest.mark.parametrize("trials", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_damaged_checkpoints(trials: int, checkpoint, tmp_path):
    truth, rng, path = tried(show_policy, [str(checkpoint)]).text, random.Random(2), tmp_path / "last.pt"
    assert truth
    for _ in range(trials):
        mutation, data = damaged(checkpoint.read_bytes(), rng)
        path.write_bytes(data)
        judge("checkpoints", mutation, tried(show_policy, [str(path)]), truth)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_checkpoints_with_other_contents(every: int, checkpoint, tmp_path):
    path, whole = tmp_path / "last.pt", read_checkpoint(checkpoint)

    def without(values: dict, name: str) -> dict:
        return {key: value for key, value in values.items() if key != name}

    def mutations() -> Iterator[tuple[str, dict]]:
        for name in ("format", "policy", "policy_config", "spec", "weights"):
            yield f"without {name}", without(whole, name)
            for value in (None, "x", 7, [], {}):
                if not (name == "policy_config" and value == {}):  # all by default: another policy
                    yield f"{name} is {value!r}", {**whole, name: value}
        for name in whole["spec"]:
            for value in (None, -7, 10**9, {"top": [10**9, 10**9]}, {"top": "x"}):
                if (name, value) != ("fps", 10**9):
                    yield f"spec: {name} is {value!r}", {**whole, "spec": {**whole["spec"], name: value}}
        for name in ("chunk_size", "d_model", "n_heads", "ffn_dim", "n_encoder_layers", "latent_dim", "cameras"):
            for value in (None, "x", -1, 0, 10**9, 0.5, [3]):
                if not (name == "cameras" and value is None):
                    yield f"{name} is {value!r}", {**whole, "policy_config": {**whole["policy_config"], name: value}}
        for name, value in list(whole["weights"].items())[::7]:
            yield f"without {name}", {**whole, "weights": without(whole["weights"], name)}
            yield f"{name} is NaN", {**whole, "weights": {**whole["weights"], name: value * torch.nan}}
            yield f"{name} has another shape", {**whole, "weights": {**whole["weights"], name: value[..., None]}}
            yield f"{name} is text", {**whole, "weights": {**whole["weights"], name: "x"}}

    for mutation, contents in islice(mutations(), 0, None, every):
        path.write_bytes(to_bytes(contents))
        judge("checkpoints", mutation, tried(show_policy, [str(path)]), "")


def show_results(words: list[str]) -> None:
    print(json.dumps(read_results(Path(words[0]))["summary"]))


def show_run(words: list[str]) -> None:
    folder = RunFolder(Path(words[0]))
    print(folder.settings(), folder.history())


@pytest.mark.parametrize("trials", [25, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_results(trials: int, tmp_path):
    path, rng = tmp_path / "results.json", random.Random(3)
    episodes = [EpisodeResult(seed, bool(seed % 2), True, 4, 300, 290 if seed % 2 else None, 5.0) for seed in range(5)]
    found = {"settings": {}, "summary": summarize(episodes), "episodes": [vars(each) for each in episodes]}
    path.write_text(whole := json.dumps(found))
    truth = tried(show_results, [str(path)]).text
    assert truth
    for _ in range(trials):
        mutation, data = damaged(whole.encode(), rng)
        path.write_bytes(data)
        judge("results", mutation, tried(show_results, [str(path)]), truth)


@pytest.mark.parametrize("trials", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_files_of_a_run(trials: int, tmp_path):
    rng, folder = random.Random(4), RunFolder(tmp_path)
    config = json.dumps({"lr": 0.1, "data": ["a"]}, indent=2).encode()
    metrics = b"".join(json.dumps({"step": step, "train/loss": 1 / step}).encode() + b"\n" for step in range(1, 9))
    for _ in range(trials):
        for path, whole in ((folder.config, config), (folder.metrics, metrics)):
            mutation, data = damaged(whole, rng)
            folder.config.write_bytes(config)
            folder.metrics.write_bytes(metrics)
            path.write_bytes(data)
            judge("runs", f"{path.name}: {mutation}", tried(show_run, [str(tmp_path)]))


def test_grasps_are_never_taken_for_failed_ones():
    """Whatever was held, however the gripper is built and wherever the arm goes."""
    rng = random.Random(6)
    for _ in range(300):
        held = [rng.choice([0.0, rng.uniform(0.08, 0.9)]) for _ in range(rng.randrange(1, 5))]
        way: dict[str, Any] = {"carry": rng.choice([0.0, 0.3, -0.9]), "away": rng.choice([0.0, 0.1, -1.0])}
        gripper: dict[str, Any] = {"offset": rng.uniform(-0.1, 0.1), "noise": rng.choice([0.0, 0.003, 0.01, 0.02])}
        gripper |= {"sign": rng.choice([1, -1]), "span": rng.choice([0.04, 1.0, 100.0, 4096.0])}
        action, qpos = demonstration(*held, **way, **gripper)
        failed = find_failed_grasps(action, qpos, rng.choice([ALOHA_JOINTS, UNKNOWN]))
        attempts = [round((grasp.start - 30) / EACH) for grasp in failed]
        COUNTS["grasps: left in"] += sum(1 for thickness in held if thickness)
        COUNTS["grasps: failed ones found"] += len(failed)
        assert not any(held[attempt] for attempt in attempts), f"{held}, {way}, {gripper}: {attempts} removed"


def test_mistaken_outputs(tmp_path, monkeypatch):
    """An output that cannot be written is refused before the work, and nothing that was there is lost."""
    monkeypatch.chdir(tmp_path)
    results = Path("results.json")
    episodes = [EpisodeResult(seed, True, True, 4, 300, 290, 5.0) for seed in range(3)]
    found = {"settings": {}, "summary": {**summarize(episodes), "inference_ms": None}}
    results.write_text(json.dumps({**found, "episodes": [vars(each) for each in episodes]}))
    Path("folder").mkdir()
    Path("link").symlink_to("nowhere/else")
    before = results.read_bytes()
    places = [
        "folder",
        "folder/a.png",
        "results.json/a.png",
        "/proc/a.png",
        "/dev/null/a.png",
        "/dev/full",
        "link/a.png",
    ]
    for place in [*places, *JUNK]:
        compared = tried(scripts.compare.main, ["results.json", "--png", place], scripts.compare.Args)
        judge("outputs", f"compare --png {place!r}", compared)
        assert results.read_bytes() == before, place


COMMANDS: list[tuple[Any, Any, str]] = [
    (scripts.train.main, scripts.train.parse, "--data nowhere --out run --preset cpu --steps 9 --lr 0.1 --cameras top"),
    (
        scripts.rollout.main,
        scripts.rollout.Args,
        "--checkpoint nowhere --episodes 3 --temporal-ensemble-coeff 0.1 --sample mean",
    ),
    (scripts.record.main, scripts.record.Args, "--task insertions --episodes 2 --out data --height 20 --traits tempo"),
    (scripts.inspect_data.main, scripts.inspect_data.Args, "nowhere --out pictures"),
    (scripts.replay.main, scripts.replay.Args, "nowhere.hdf5 --video a.mp4"),
    (scripts.compare.main, scripts.compare.Args, "a.json b.json --png a.png"),
    (scripts.latent_plot.main, scripts.latent_plot.Args, "--checkpoint nowhere --data nowhere --png a.png --samples 3"),
]
JUNK = [
    "",
    "-1",
    "0",
    "nan",
    "1e999",
    "x" * 5000,
    "∞",
    "--",
    "-",
    "99999999999999999999",
    "\udce9",
    "a\nb",
    "..",
    "None",
]


@pytest.mark.parametrize("trials", [60, pytest.param(140, marks=pytest.mark.slow)])
def test_mistaken_command_lines(trials: int, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(5)
    for _ in range(trials):
        main, parse, line = rng.choice(COMMANDS)
        words, place = line.split(), rng.randrange(len(line.split()))
        match rng.choice(["drop", "double", "junk", "swap", "flag", "cut"]):
            case "drop":
                del words[place]
            case "double":
                words.insert(place, words[place])
            case "junk":
                words[place] = rng.choice(JUNK)
            case "swap":
                words[place], words[0] = words[0], words[place]
            case "flag":
                words.insert(place, rng.choice(["--nonsense", "--out", "--resume", "-h2", "--seed"]))
            case "cut":
                words = words[:place]
        outcome = tried(main, words, parse)
        judge("command lines", repr(words), outcome, "")


def test_the_counts():
    assert sum(COUNTS.values()) >= 300
    print("\n" + "\n".join(f"{what}: {count}" for what, count in sorted(COUNTS.items())))
    print(f"{sum(COUNTS.values())} trials, 0 tracebacks, 0 hangs, 0 crashes, 0 silent acceptances")
