"""Speed of training steps, inference and data loading, beside LeRobot's ACT of the same shape."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

import h5py
import numpy as np
import torch

from act.dataset import ChunkDataset
from act.device import autocast, pick_dtype
from act.policies import Batch, Observation, Policy, PolicySettings, make_policy
from act.run_folder import RunFolder
from act.sampling import ShuffledStarts
from act.train import Trainer
from act.train_config import TrainConfig
from demos.episode import Episode, find_episodes
from demos.robot import ALOHA
from demos.spec import EpisodeSpec
from scripts.benchmarks import SIZES
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.timing import Case

LEROBOT_LIKE = PolicySettings(cameras=("top",))
"""The paper's shape, one decoder layer, frozen batch norms: what LeRobot builds by default, 52 M parameters."""


def make_batch(spec: EpisodeSpec, k: int, size: int, device: torch.device) -> Batch:
    """Random samples, without padding."""
    rng = torch.Generator().manual_seed(0)
    images = {
        name: torch.randint(0, 256, (size, *shape, 3), dtype=torch.uint8, generator=rng)
        for name, shape in spec.cameras.items()
    }
    env_state = torch.randn(size, spec.env_state_dim, generator=rng) if spec.env_state_dim else None
    observation = Observation(torch.randn(size, 14, generator=rng), images, env_state)
    action = torch.randn(size, k, 14, generator=rng)
    return Batch(observation, action, torch.zeros(size, k, dtype=torch.bool)).to(device)


def make(config: PolicySettings, size: tuple[int, int], device: torch.device) -> Policy:
    """A policy with random weights and one camera of that size."""
    torch.manual_seed(0)
    spec = EpisodeSpec(ALOHA, {"top": size})
    return make_policy(config, spec, pretrained=False).to(device)


class _NoStarts:
    """Takes the place of a dataset where single steps are measured."""

    train = val = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Mode:
    """How a training step is computed."""

    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """tf32: float32, but matrix products on CUDA round their inputs to 10 bits, as `Trainer` lets them."""
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def __str__(self) -> str:
        return self.precision + (", compiled" if self.compile else "")


@contextmanager
def trainer_of(policy: Policy, config: TrainConfig) -> Iterator[Trainer]:
    """A trainer without data, for its method `update`."""
    with tempfile.TemporaryDirectory() as folder:
        yield Trainer(policy, _NoStarts(), config, RunFolder(Path(folder)))  # pyright: ignore[reportArgumentType]


@contextmanager
def stepping(policy: Policy, mode: Mode, device: torch.device) -> Iterator[Callable[[Batch], None]]:
    """The step of `Trainer`, as a function of a batch."""
    dtype = "bfloat16" if mode.precision == "bfloat16" else "float32"
    config = TrainConfig(dtype=dtype, compile=mode.compile, device=str(device), grad_clip=10.0)
    with trainer_of(policy, config) as trainer:
        if mode.precision == "float32":
            torch.set_float32_matmul_precision("highest")
        forward = torch.compile(policy) if mode.compile else policy

        def step(batch: Batch) -> None:
            trainer.update(policy, forward, [batch])

        yield step


def timed(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean seconds of `work` in `times` calls, after one that is not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - start) / times


def train_cases(
    peer: Peer | None,
    device: torch.device,
    batch_sizes: Sequence[int] = (8,),
    compiled: bool = False,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    steps: int = 3,
    config: PolicySettings = LEROBOT_LIKE,
) -> list[Case]:
    """Milliseconds of one optimiser step."""
    cases = []
    for height, width in sizes:
        for n in batch_sizes:
            shape = dict(height=height, width=width, chunk=config.chunk_size, size=n, device=str(device))
            peers = {"LeRobot": peer.doing("train", steps=steps, **shape)} if peer else {}
            for mode in modes_of(device, compiled):
                take = partial(_train_ms, config, (height, width), n, steps, mode, device)
                cases.append(Case(f"training step, batch {n}, {height} x {width}, {mode}", "ms", take, peers))
    return cases


def modes_of(device: torch.device, compiled: bool = False) -> list[Mode]:
    """float32, TF32 on CUDA, bfloat16 where it is fast; the last one also compiled."""
    modes = [Mode(), *[Mode("tf32")] * (device.type == "cuda")]
    modes += [Mode("bfloat16")] * (pick_dtype("auto", device) == torch.bfloat16)
    return modes + [replace(modes[-1], compile=True)] * compiled


def _batch(config: PolicySettings, size: tuple[int, int], batch_size: int, device: torch.device) -> Batch:
    return make_batch(EpisodeSpec(ALOHA, {"top": size}), config.chunk_size, batch_size, device)


def _train_ms(
    config: PolicySettings, size: tuple[int, int], batch_size: int, steps: int, mode: Mode, device: torch.device
) -> float:
    """NaN where the memory does not suffice."""
    try:
        policy, batch = make(config, size, device), _batch(config, size, batch_size, device)
        with stepping(policy, mode, device) as step:
            step(batch)  # compiles
            return 1e3 * timed(lambda: step(batch), steps, device)
    except torch.OutOfMemoryError:
        return float("nan")


def infer_cases(
    peer: Peer | None,
    device: torch.device,
    compiled: bool = False,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    observations: Sequence[int] = (1, 50),
    times: int = 10,
    config: PolicySettings = LEROBOT_LIKE,
) -> list[Case]:
    """Milliseconds from observations on the host to chunks on the host, in physical units."""
    cases = []
    for height, width in sizes:
        policy = make(config, (height, width), device).eval()
        for n in observations:
            shape = dict(height=height, width=width, chunk=config.chunk_size, size=n, device=str(device))
            peers = {"LeRobot": peer.doing("infer", steps=times, **shape)} if peer else {}
            seen = _batch(config, (height, width), n, torch.device("cpu")).observation
            for mode in modes_of(device, compiled):
                take = partial(_infer_ms, policy, seen, times, device, mode)
                cases.append(Case(f"inference, batch {n}, {height} x {width}, {mode}", "ms", take, peers))
    return cases


@torch.inference_mode()
def _infer_ms(policy: Policy, seen: Observation, times: int, device: torch.device, mode: Mode) -> float:
    predict = torch.compile(policy.predict, mode="reduce-overhead") if mode.compile else policy.predict
    with autocast(device, mode.dtype):
        predict(seen.to(device))  # compiles
        return 1e3 * timed(lambda: predict(seen.to(device)).cpu(), times, device)


def data_cases(
    peer: Peer | None, folders: Sequence[Path], device: torch.device, *, batch_size: int = 8, chunk: int = 100
) -> list[Case]:
    """Random samples per second: cached, from files, as the original reads its files, and from LeRobot's dataset.

    Args:
        folders: recordings with one camera, top. The peers get the same frames.
    """
    cases = []
    for folder in folders:
        height, width = Episode(find_episodes(folder)[0]).spec.cameras["top"]
        peers: dict[str, Callable[[], float]] = {"the original's way": _original(folder, chunk)}
        if peer:
            asked = dict(frames_file=str(_frames_of(folder)), chunk=chunk, size=batch_size, batches=20, workers=2)
            peers["LeRobot, 2 workers"] = peer.doing("data", **asked)
        for cache in ("auto", "none"):
            name = f"random samples, {height} x {width}, {'cached' if cache == 'auto' else 'from files, 2 workers'}"
            cases.append(Case(name, "samples/s", _sampling(folder, chunk, cache, batch_size, device), peers))
    return cases


def _sampling(folder: Path, chunk: int, cache: str, batch_size: int, device: torch.device) -> Callable[[], float]:
    dataset = ChunkDataset(folder, chunk, val_fraction=0)
    dataset.cache(cache, device)
    order = ShuffledStarts(dataset.train, batch_size, 0)
    batches = 200 if cache == "auto" else 50

    def take() -> float:
        stream = dataset.batches(order, 0, batches + 1, device, num_workers=2)
        next(stream)  # workers have started then
        start = time.perf_counter()
        for _ in stream:
            pass
        return batches * batch_size / (time.perf_counter() - start)

    return take


def _frames_of(folder: Path) -> Path:
    """All frames, positions and actions in one plain file, for another program."""
    episodes = [Episode(path) for path in find_episodes(folder)]
    frames = np.stack([each.frames("top") for each in episodes])
    qpos, action = (np.stack([getattr(each, name) for each in episodes]) for name in ("qpos", "action"))
    np.savez(file := folder / "frames.npz", frames=frames, qpos=qpos, action=action)
    return file


def _original(folder: Path, chunk: int) -> Callable[[], float]:
    """As the original's dataset: files without compression; open, read one step, close; one sample at a time."""
    raw = folder / "uncompressed"
    raw.mkdir()
    paths = []
    for path in find_episodes(folder):
        episode = Episode(path)
        frames = episode.frames("top")
        paths.append(raw / path.name)
        with h5py.File(paths[-1], "w") as root:
            root["action"], root["qpos"] = episode.action, episode.qpos
            root.create_dataset("top", data=frames, chunks=(1, *frames.shape[1:]))

    def take(samples: int = 300) -> float:
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        for _ in range(samples):
            with h5py.File(paths[rng.integers(len(paths))], "r") as root:
                action, qpos, image = (cast(h5py.Dataset, root[name]) for name in ("action", "qpos", "top"))
                t = int(rng.integers(len(action)))
                rest = action[t : t + chunk]
                padded = np.zeros((chunk, rest.shape[1]), np.float32)
                padded[: len(rest)] = rest
                _ = torch.from_numpy(image[t]).permute(2, 0, 1) / 255.0, torch.from_numpy(padded), qpos[t]
        return samples / (time.perf_counter() - start)

    return take
