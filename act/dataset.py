"""Demonstrations as training batches: (episode, t) → observation at t, the next k actions, is_pad.

All episodes stand end to end on one time line, so a start is one number and a batch is gathered by index tensors, with
no Python per sample:

    episode        0 0 0 0 0 1 1 1
    start          0 1 2 3 4 5 6 7
    chunk of k=3   start 3 → actions 3 4 4, is_pad F F T: after its episode's end an action repeats, marked as padding

Every step of every training episode is a start, but those in which a policy acted that a person then corrected, and
pauses, if they are left out of the time line. Values
keep the units of the files and frames stay uint8: whatever a network wants instead, the policy does itself. Targets of
real-robot episodes begin one step before the observation (`Episode.action_offset`).
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from act.device import free_memory
from act.errors import ConfigError
from act.keyframes import keyframes
from act.language import InstructionEncoder
from act.policies.base import Batch, Observation, Policy
from act.reading import read_ahead
from act.sampling import ShuffledStarts, balance_tasks, oversample_beginnings
from act.targets import describe_changes, starts_of, targets_of
from act.train_config import LearnFrom
from demos import kinematics
from demos.episode import Episode, check_dataset, find_episodes
from demos.spec import JpegColors

ENCODED_AT_ONCE = 16  # frames: few enough for the processor's caches


class ChunkDataset:
    """All starts of a set of episodes.

    Args:
        episodes: a folder of episodes, or their paths.
        chunk_size: k, the number of actions from a start on.
        cameras: the cameras to read; None reads all, () none.
        learn_from: the starts to take: those that an expert or a person demonstrated, those in which a person acted,
            or all. Episodes tell apart (`Episode.human`) what a person did from what a policy did.
        val_fraction: share of episodes kept for validation, at least one if it is positive and there are several.
            Episodes recorded from the same seed stay on the same side.
        seed: of the split.
        drop_idle_steps: remove idle steps from the time line, see `act.keyframes.moving_steps`.
        drop_failed_grasps: remove failed grasp attempts from the targets, see `act.keyframes`.
        beginning_fraction: share of the training starts that are among the first steps of an episode, see
            `act.sampling.oversample_beginnings`.
        instructed: the episodes tell what was to be done; they may be of several tasks, of which each then gives as
            many starts as the others (those of shorter ones are taken again).
        jpeg_colors: the order of the colours in JPEG frames, see `demos.episode.Episode`.

    Attributes:
        spec: what the episodes contain.
        train, val: (N,) int64 starts of the two splits.
        longest: steps of the longest episode, as far as they stand on the time line.
        changes: one line that says what is learnt otherwise than the files have it.

    Raises:
        EpisodeError: a file is damaged, files disagree, or a camera is unknown.
        ConfigError: a chunk longer than every episode.
    """

    def __init__(
        self,
        episodes: Path | Sequence[Path],
        chunk_size: int,
        *,
        cameras: Sequence[str] | None = None,
        learn_from: LearnFrom = "demonstrated",
        val_fraction: float = 0.1,
        seed: int = 0,
        drop_idle_steps: bool = False,
        drop_failed_grasps: bool = False,
        beginning_fraction: float = 0.0,
        instructed: bool = False,
        jpeg_colors: JpegColors = "auto",
    ):
        self.paths = find_episodes(episodes) if isinstance(episodes, Path) else list(episodes)
        self.spec = check_dataset(self.paths, instructed, cameras, jpeg_colors)
        self.cameras = tuple(self.spec.cameras if cameras is None else cameras)
        self.chunk_size, self.seed = chunk_size, seed

        self.episodes = [Episode(path, cameras=cameras, jpeg_colors=jpeg_colors) for path in self.paths]
        # Steps of each episode that stand on the time line; a pause at its end is longer than a chunk by one step.
        self.targets = [
            targets_of(episode, chunk_size + 1, drop_idle_steps=drop_idle_steps, drop_failed_grasps=drop_failed_grasps)
            for episode in self.episodes
        ]
        self._kept = [each.kept for each in self.targets]
        longest = self.longest = max(map(len, self._kept))
        if chunk_size > longest:
            raise ConfigError(
                f"chunk_size {chunk_size} is longer than every episode in {self.paths[0].parent}, the longest has "
                f"{longest} steps; use --chunk-size {longest} or less"
            )
        self.qpos = self._joined("qpos")  # (S, J)
        self.action = self._on_time_line([each.action for each in self.targets])  # (S, A)
        meant = [each.meant for each in self.targets if each.meant is not None]
        self._lines = _lines(self._on_time_line(meant)) if meant else None
        names, pairs = self.spec.joint_names, zip(self.targets, self.episodes, strict=True)
        told = [keyframes(each.action, e.qpos, names, from_grasp=instructed) for each, e in pairs]
        self.keyframe = self._on_time_line(told)  # (S, K)
        self.env_state = self._joined("env_state") if self.spec.env_state_dim else None  # (S, E)
        self.frames: dict[str, Tensor] | None = None  # camera → (S, H, W, 3) uint8, once cached
        self.instructions: Tensor | None = None  # (N, text_dim), `sentences` embedded, once embedded
        self.features: dict[str, Tensor] = {}  # camera → (S, F) float16, once encoded; in place of its frames

        lengths = torch.tensor([len(kept) for kept in self._kept])
        offsets = torch.tensor([episode.action_offset for episode in self.episodes])
        ends = lengths.cumsum(0)
        self._first = ends - lengths  # (episodes,)
        self._episode = torch.arange(len(lengths)).repeat_interleave(lengths)  # (S,) start → episode
        target = torch.arange(len(self.qpos)) + offsets[self._episode]
        self._target = target.maximum(self._first[self._episode])  # (S,) index of a start's first action
        self._last = (ends - 1)[self._episode]  # (S,) index of the last action of a start's episode
        # Other recorders write one seed into all of their files.
        seeds = [("seed", e.seed) if e.ours and e.seed is not None else ("file", str(e.path)) for e in self.episodes]
        is_val = torch.from_numpy(_split(seeds, val_fraction, seed))[self._episode]
        taken = self._on_time_line([starts_of(episode, learn_from) for episode in self.episodes])
        self.train, self.val = (taken & ~is_val).nonzero()[:, 0], (taken & is_val).nonzero()[:, 0]
        if len(self.spec.env_ids) > 1:
            tasks = [self.spec.env_ids.index(episode.spec.env_id) for episode in self.episodes]
            self.train = balance_tasks(self.train, torch.tensor(tasks)[self._episode])
        self._measured = self.train
        if beginning_fraction:
            step = torch.arange(len(self.qpos)) - self._first[self._episode]
            self.train = oversample_beginnings(self.train, step, beginning_fraction)
        self.changes = describe_changes(self.episodes, self.targets, learn_from)
        self._phrasing, self.sentences = None, list[str]()
        if instructed:
            self._tell()
        if not len(self.train):
            raise ConfigError(
                f"no step in {self.paths[0].parent} to train on with --learn-from {learn_from}; "
                "use --learn-from demonstrated or all"
            )

    def _tell(self) -> None:
        """Which sentence goes with which start: of an episode's phrasings, those of neighbouring starts differ."""
        for path, episode in zip(self.paths, self.episodes, strict=True):
            if not episode.instructions:
                raise ConfigError(
                    f"{path} does not tell in words what was to be done (attribute instruction or language_raw), which "
                    "--text-encoder needs; record it again, or leave the encoder out"
                )
        self.sentences = list(dict.fromkeys(text for episode in self.episodes for text in episode.instructions))
        place = {text: i for i, text in enumerate(self.sentences)}
        phrasing = []
        for episode, kept in zip(self.episodes, self._kept, strict=True):
            own = np.array([place[text] for text in episode.instructions])
            phrasing.append(own[np.random.default_rng(episode.seed or 0).integers(len(own), size=len(kept))])
        self._phrasing = torch.from_numpy(np.concatenate(phrasing))  # (S,) into `sentences`

    def embed(self, encoder: InstructionEncoder, fit: bool = True) -> None:
        """Embeds the episodes' instructions; batches then have them.

        `fit`: fit the encoder to the phrasings first, those of one episode mean the same. Otherwise it stays as another
        run fitted it.
        """
        if fit:
            encoder.fit([episode.instructions for episode in self.episodes])
        self.instructions = encoder(self.sentences)  # (N, text_dim)

    def stats(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation, per dimension, of each normalised quantity over the training split."""
        values = {"qpos": self.qpos, "action": self.action, "keyframe": self.keyframe, "env_state": self.env_state}
        if kinematics.knows(self.spec.joint_names):
            values["place"] = torch.from_numpy(kinematics.tool_positions(self.action.cpu().numpy()))
        train = {key: x[self._measured.to(x.device)].double() for key, x in values.items() if x is not None}
        return {key: (x.mean(0).float(), x.std(0, correction=0).float()) for key, x in train.items()}

    def checksum(self) -> int:
        """Of all actions in order: tells whether a folder still holds the same episodes."""
        return zlib.crc32(self.action.cpu().numpy().tobytes())

    def episodes_checksum(self) -> int:
        """Of what the files hold, their frames aside, in order: unlike `checksum`, no setting and no version of what is
        made of it moves it."""
        found = 0
        for each in self.episodes:
            arrays = (each.qpos, each.action, each.expert_action, each.env_state, each.human)
            parts = [b"" if a is None else np.ascontiguousarray(a, np.float32).tobytes() for a in arrays]
            words = "\n".join(each.instructions).encode()
            for part in (str(each.length).encode(), *parts, words):
                found = zlib.crc32(part, found)
        return found

    def frame_bytes(self) -> int:
        """Bytes of all frames of the chosen cameras, decoded."""
        return len(self.qpos) * sum(3 * h * w for h, w in (self.spec.cameras[name] for name in self.cameras))

    def cache(self, where: str, device: torch.device, sharers: int = 1) -> str:
        """Decode all frames into memory, so that batches are gathered and nothing is read from files.

        Args:
            where: "device", "ram", "none", or "auto": the first of device (CUDA only) and ram where they take at most
                half of what is free, else "none".
            device: the training device.
            sharers: processes on this machine that do the same, each with a share of its memory.

        Returns:
            The choice, in words.
        """
        size, cpu = self.frame_bytes(), torch.device("cpu")
        if where == "auto":
            places = ["device", "ram"] if device.type == "cuda" else ["ram"]
            free = {"device": free_memory(device), "ram": free_memory(cpu) / sharers}
            where = next((name for name in places if size <= free[name] / 2), "none")
        if where == "none" and self.cameras:
            return f"{size / 1e9:.2f} GB of frames are read from the files as they are needed"
        home = device if where == "device" else cpu
        self.frames = self._decode(home)
        for name in ("qpos", "action", "keyframe", "env_state", "_target", "_last", "_phrasing", "instructions"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.to(home))
        self._lines = None if self._lines is None else tuple(each.to(home) for each in self._lines)
        return f"{size / 1e9:.2f} GB of frames are kept in memory on {home}"

    def encode(self, policy: Policy, device: torch.device) -> str:
        """Let the policy see all cached frames, as far as it never learns to see them otherwise, and keep what it saw.

        Does nothing, and returns "", for policies that learn all of their seeing, and where frames are not cached or
        the memory does not suffice.
        """
        if self.frames is None or not self.cameras:
            return ""
        policy = policy.to(device)
        size = 0
        for name in self.cameras:
            row = policy.encode_frames(name, self.frames[name][:1].to(device))
            if row is None:
                return ""
            size += row.numel() * row.element_size() * len(self.qpos)
        home, generator = self.qpos.device, torch.Generator().manual_seed(self.seed)
        free = free_memory(home)
        if size > min((free + self.frame_bytes()) / 2, 0.8 * free):  # in the end the frames are let go
            return f"features of all frames would take {size / 1e9:.2f} GB: they are computed in every step instead"
        total = len(self.cameras) * len(self.qpos)
        with tqdm(total=total, desc="looking at all frames", unit="frame", disable=None, leave=False) as bar:
            for name in self.cameras:
                for start in range(0, len(self.qpos), ENCODED_AT_ONCE):
                    frames = self.frames[name][start : start + ENCODED_AT_ONCE]
                    rows = policy.encode_frames(name, frames.to(device), generator)
                    assert rows is not None
                    if name not in self.features:
                        self.features[name] = torch.empty(len(self.qpos), rows.shape[1], dtype=rows.dtype, device=home)
                    self.features[name][start : start + len(rows)] = rows
                    bar.update(len(rows))
                del self.frames[name]
        self.frames = {}
        return f"{size / 1e9:.2f} GB of features, which training does not change, take the place of the frames"

    def _decode(self, home: torch.device) -> dict[str, Tensor]:
        shapes = {name: (len(self.qpos), *self.spec.cameras[name], 3) for name in self.cameras}
        frames = {name: torch.empty(shape, dtype=torch.uint8, device=home) for name, shape in shapes.items()}

        def read(episode: Episode, steps: np.ndarray, start: int) -> None:
            with episode:
                for name in self.cameras:
                    kept = torch.from_numpy(episode.frames(name)[steps])
                    frames[name][start : start + len(steps)] = kept

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(read, self.episodes, self._kept, self._first.tolist())
            for _ in tqdm(done, "reading frames", len(self.episodes), disable=None, leave=False):
                pass
        return frames

    def _joined(self, name: str) -> Tensor:
        return self._on_time_line([getattr(episode, name) for episode in self.episodes])

    def _on_time_line(self, episodes: Sequence[np.ndarray]) -> Tensor:
        """Something that every step of each episode has, end to end, (S, …)."""
        pairs = zip(episodes, self._kept, strict=True)
        return torch.from_numpy(np.concatenate([values[kept] for values, kept in pairs]))

    def valid_steps(self, starts: Tensor) -> Tensor:
        """() float32: how many of the k steps from a start on lie in its episode, mean over (B,) starts."""
        starts = starts.to(self._last.device, non_blocking=True)
        return (self._last[starts] - self._target[starts] + 1).clamp(max=self.chunk_size).float().mean()

    def gather(self, starts: Tensor, whole: Tensor | None = None, pin: bool = False) -> Batch:
        """The batch of (B,) starts, a share of those in `whole`; on the cache's device, page-locked if `pin`."""
        valid_steps = self.valid_steps(starts if whole is None else whole)
        starts = starts.to(self.qpos.device, non_blocking=True)
        chunk = torch.arange(self.chunk_size, device=starts.device)
        steps = self._target[starts, None] + chunk  # (B, k)
        last = self._last[starts, None]

        def pick(values: Tensor) -> Tensor:
            shape = (len(starts), *values.shape[1:])
            out = torch.empty(shape, dtype=values.dtype, device=values.device, pin_memory=pin)
            return torch.index_select(values, 0, starts, out=out)

        frames = self._read(starts) if self.frames is None else {name: pick(all) for name, all in self.frames.items()}
        env_state = None if self.env_state is None else pick(self.env_state)
        features = {name: pick(all) for name, all in self.features.items()}
        observation = Observation(pick(self.qpos), frames, env_state, features)
        if self._phrasing is not None and self.instructions is not None:
            observation.instruction = self.instructions[pick(self._phrasing)]
        if self._lines is None:
            action = self.action[steps.minimum(last)]
        else:
            line, place = self._lines
            ahead = place[self._target[starts], None] + chunk[:, None]
            own = line.gather(0, ahead.clamp(max=len(line) - 1).flatten(0, 1)).view_as(ahead)  # (B, k, A)
            action = self.action.gather(0, own.minimum(last[..., None]).flatten(0, 1)).view_as(ahead)
        return Batch(observation, action, steps > last, valid_steps, pick(self.keyframe))

    def _read(self, starts: Tensor) -> dict[str, Tensor]:
        numbers = self._episode[starts]
        steps = (starts - self._first[numbers]).tolist()
        where = [(self.episodes[n], int(self._kept[n][i])) for n, i in zip(numbers.tolist(), steps, strict=True)]
        return {
            name: torch.from_numpy(np.stack([episode.frame(name, t) for episode, t in where])) for name in self.cameras
        }

    def batches(
        self, order: ShuffledStarts, first: int, last: int, device: torch.device, num_workers: int = 2
    ) -> Iterator[Batch]:
        """The shares of batches first … last - 1 of `order`, on `device`; read ahead by worker processes, at most one a
        core, where nothing is cached.
        """
        pin = device.type == "cuda"
        numbers = range(first * order.accumulate, last * order.accumulate)
        if self.frames is not None:
            for i in numbers:
                yield self.gather(*order[i], pin and self.qpos.device.type == "cpu").to(device, non_blocking=True)
            return
        yield from read_ahead(self, order, numbers, device, num_workers)


def _lines(meant: Tensor) -> tuple[Tensor, Tensor] | None:
    """Each joint's own time line without what was not meant, `meant` (S, A): its steps in order (S, A), and the place
    in it of every step or of the next that was meant (S, A); None where all was meant.
    """
    if meant.all():
        return None
    steps = torch.arange(len(meant))[:, None]
    return torch.where(meant, steps, len(meant)).sort(dim=0).values, meant.cumsum(0) - meant.long()


def _split(groups: Sequence[object], val_fraction: float, seed: int) -> np.ndarray:
    """(episodes,) bool, True for validation; equal groups stay together."""
    unique = list(dict.fromkeys(groups))
    count = round(val_fraction * len(unique))
    if val_fraction > 0 and len(unique) > 1:
        count = min(max(count, 1), len(unique) - 1)
    chosen = {unique[i] for i in np.random.default_rng(seed).permutation(len(unique))[:count]}
    return np.array([group in chosen for group in groups])
