"""Demonstrations as training batches: (episode, t) → observation at t, the next k actions, is_pad.

All episodes stand end to end on one time line (`act.timeline`), so a start is one number, and index tensors gather a
batch without Python code per sample:

    episode        0 0 0 0 0 1 1 1
    start          0 1 2 3 4 5 6 7
    chunk of k=3   start 3 → actions 3 4 4, is_pad F F T: past the end of its episode an action repeats, as padding

    act/targets.py    per-episode arrays: commands, keyframes, kept steps
    act/frames.py     decodes, caches and encodes camera frames
    act/sampling.py   split, balance and order of starts

Values keep the units of the files, frames stay uint8: the policy normalises. In files of a real robot the command at t
is stored at t - 1 (`Episode.action_offset`).
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from act.errors import ConfigError
from act.frames import Frames, place_for
from act.language import InstructionEncoder
from act.policies.base import Batch, Observation
from act.policies.policy import Policy
from act.reading import read_ahead
from act.sampling import ShuffledStarts, balance_tasks, oversample_beginnings, split_groups
from act.targets import describe_changes, starts_of, targets_of
from act.timeline import TimeLine, joint_time_lines
from act.train_config import LearnFrom
from demos.episode import Episode, check_dataset, find_episodes
from demos.kinematics import forward_kinematics
from demos.robot import Robot
from demos.spec import ActionSemantics, JpegColors


class ChunkDataset:
    """All starts of a set of episodes.

    Args:
        episodes: a folder of episodes, or their paths.
        chunk_size: k, the number of actions from a start on.
        cameras: the cameras to read; None reads all, () none.
        learn_from: the starts to take: those that an expert or a person demonstrated, those in which a person acted,
            or all. `Episode.human` tells the steps of a person from those of a policy.
        val_fraction: share of episodes kept for validation, at least one if it is positive and there are several.
            Episodes recorded from the same seed stay on the same side.
        seed: of the split.
        drop_idle_steps: remove idle steps from the time line.
        drop_failed_grasps: remove failed grasp attempts from the targets.
        beginning_fraction: share of the training starts that are among the first steps of an episode, see
            `act.sampling.oversample_beginnings`.
        instructed: episodes need an instruction. They may be of several tasks; each task gives equally many starts.
        jpeg_colors: the order of the colours in JPEG frames, see `demos.episode.Episode`.
        robot, action_semantics: in place of what the files say: the JSON of a `Robot`, and what actions command; "" and
            "auto" take what the files say or their numbers suggest.

    Attributes:
        spec: what the episodes contain.
        train, val: (N,) int64 starts of the two splits.
        timeline: the steps that are learnt; S of them.
        qpos, action, keyframe, env_state: (S, …) what a step has, in physical units.
        frames: the camera frames of these steps.
        sentences: the different instructions of all episodes.
        changes: one line that says how the targets differ from the files.

    Raises:
        EpisodeError: a file is damaged, files disagree, or a camera is unknown.
        ConfigError: a chunk longer than every episode, no start to train on, or an episode without instruction.
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
        robot: str = "",
        action_semantics: ActionSemantics | Literal["auto"] = "auto",
    ):
        self.paths = find_episodes(episodes) if isinstance(episodes, Path) else list(episodes)
        semantics = None if action_semantics == "auto" else action_semantics
        given: dict[str, Any] = {"robot": Robot.from_json(robot) if robot else None, "action_semantics": semantics}
        self.spec = check_dataset(self.paths, instructed, cameras, jpeg_colors, **given)
        self.cameras = tuple(self.spec.cameras if cameras is None else cameras)
        self.chunk_size, self.seed = chunk_size, seed
        self.episodes = [Episode(path, cameras=cameras, jpeg_colors=jpeg_colors, **given) for path in self.paths]

        dropped = {"drop_idle_steps": drop_idle_steps, "drop_failed_grasps": drop_failed_grasps}
        # Of an idle stretch at the end more than a chunk is kept: the policy learns to stay.
        targets = [
            targets_of(each, chunk_size + 1, **dropped, from_grasp=instructed, spec=self.spec) for each in self.episodes
        ]
        self.changes = describe_changes(self.episodes, targets, learn_from)
        line = self.timeline = TimeLine([each.kept for each in targets])
        if chunk_size > line.longest:
            raise ConfigError(
                f"chunk_size {chunk_size} is longer than every episode in {self.paths[0].parent}, the longest has "
                f"{line.longest} steps; use --chunk-size {line.longest} or less"
            )
        self.qpos = line.join([each.qpos for each in self.episodes])  # (S, J)
        self.action = line.join([each.action for each in targets])  # (S, A)
        self.keyframe = line.join([each.keyframe for each in targets])  # (S, K)
        with_poses = self.spec.env_state_dim > 0
        poses = [each.env_state for each in self.episodes if with_poses and each.env_state is not None]
        self.env_state = line.join(poses) if with_poses else None  # (S, E)
        intended = [each.intended for each in targets if each.intended is not None]
        self._joint_lines = joint_time_lines(line.join(intended)) if intended else None
        self.frames = Frames(self.episodes, {name: self.spec.cameras[name] for name in self.cameras}, line)

        offsets = torch.tensor([each.action_offset for each in self.episodes])[line.episode]
        # (S,) place of a start's first action, and of the last action of its episode.
        self._target = (torch.arange(len(line)) + offsets).maximum(line.first[line.episode])
        self._last = line.last[line.episode]

        self.sentences, self._sentence, self.instructions = list[str](), None, None
        if instructed:
            self._sentence = self._choose_sentences()  # (S,) into `sentences`
        self._split(learn_from, val_fraction, beginning_fraction)

    def _split(self, learn_from: LearnFrom, val_fraction: float, beginning_fraction: float) -> None:
        """Chooses the starts for training and validation."""
        line = self.timeline
        # Other recorders write one seed into all of their files.
        groups = [("seed", e.seed) if e.ours and e.seed is not None else ("file", str(e.path)) for e in self.episodes]
        is_val = torch.from_numpy(split_groups(groups, val_fraction, self.seed))[line.episode]
        taken = line.join([starts_of(episode, learn_from) for episode in self.episodes])
        self.train, self.val = (taken & ~is_val).nonzero()[:, 0], (taken & is_val).nonzero()[:, 0]
        if not len(self.train):
            raise ConfigError(
                f"no step in {self.paths[0].parent} to train on with --learn-from {learn_from}; "
                "use --learn-from demonstrated or all"
            )
        if len(self.spec.env_ids) > 1:
            tasks = [self.spec.env_ids.index(episode.spec.env_id) for episode in self.episodes]
            self.train = balance_tasks(self.train, torch.tensor(tasks)[line.episode])
        self._measured = self.train
        if beginning_fraction:
            self.train = oversample_beginnings(self.train, line.since_first, beginning_fraction)

    def _choose_sentences(self) -> Tensor:
        """Which sentence goes with which step: one of its episode's phrasings, at random for each step."""
        for path, episode in zip(self.paths, self.episodes, strict=True):
            if not episode.instructions:
                raise ConfigError(
                    f"{path} has no instruction (attribute instruction or language_raw), and --text-encoder needs one; "
                    "record it again, or train without --text-encoder"
                )
        self.sentences = list(dict.fromkeys(text for episode in self.episodes for text in episode.instructions))
        number = {text: i for i, text in enumerate(self.sentences)}
        chosen = []
        for episode, kept in zip(self.episodes, self.timeline.kept, strict=True):
            own = np.array([number[text] for text in episode.instructions])
            chosen.append(own[np.random.default_rng(episode.seed or 0).integers(len(own), size=len(kept))])
        return torch.from_numpy(np.concatenate(chosen))

    def embed(self, encoder: InstructionEncoder, fit: bool = True) -> None:
        """Embeds the instructions, which batches then contain.

        Args:
            encoder: embeds sentences.
            fit: fit its statistics to the episodes, whose phrasings mean the same. Without, they stay as another run
                fitted them.
        """
        if fit:
            encoder.fit([episode.instructions for episode in self.episodes])
        self.instructions = encoder(self.sentences)  # (N, text_dim)

    def stats(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation, per dimension, of each normalised quantity over the training split."""
        values = {"qpos": self.qpos, "action": self.action, "keyframe": self.keyframe, "env_state": self.env_state}
        if self.spec.has_ee_positions:
            positions = forward_kinematics(self.spec.robot, self.action.cpu().numpy())
            values["ee_position"] = torch.from_numpy(positions.reshape(len(positions), -1))
        train = {key: x[self._measured.to(x.device)].double() for key, x in values.items() if x is not None}
        return {key: (x.mean(0).float(), x.std(0, correction=0).float()) for key, x in train.items()}

    def checksum(self) -> int:
        """Of all target actions in order: it changes with the episodes, with settings and with versions."""
        return zlib.crc32(self.action.cpu().numpy().tobytes())

    def episodes_checksum(self) -> int:
        """Of the files' contents without frames, in order: it changes with the episodes alone."""
        found = 0
        for each in self.episodes:
            arrays = (each.qpos, each.action, each.expert_action, each.env_state, each.human)
            parts = [b"" if a is None else np.ascontiguousarray(a, np.float32).tobytes() for a in arrays]
            words = "\n".join(each.instructions).encode()
            for part in (str(each.length).encode(), *parts, words):
                found = zlib.crc32(part, found)
        return found

    def cache(self, where: str, device: torch.device, sharers: int = 1) -> str:
        """Decodes all frames into memory and moves all arrays there, so that no file is read for a batch.

        Args:
            where: "auto", "device", "ram" or "none", see `act.frames.place_for`.
            device: the training device.
            sharers: processes on this machine that do the same.

        Returns:
            The choice, in words.
        """
        size = self.frames.nbytes / 1e9
        home = place_for(where, self.frames.nbytes, device, sharers)
        if home is None and self.cameras:
            return f"{size:.2f} GB of frames are read from the files as they are needed"
        home = home or torch.device("cpu")
        self.frames.cache(home)
        for name in ("qpos", "action", "keyframe", "env_state", "_target", "_last", "_sentence", "instructions"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.to(home))
        self._joint_lines = None if self._joint_lines is None else tuple(each.to(home) for each in self._joint_lines)
        return f"{size:.2f} GB of frames are kept in memory on {home}"

    def encode(self, policy: Policy, device: torch.device) -> str:
        """Replaces cached frames by features of a frozen backbone, see `act.frames.Frames.encode`."""
        return self.frames.encode(policy, device, self.qpos.device, self.seed)

    def valid_steps(self, starts: Tensor) -> Tensor:
        """() float32: how many of the k steps from a start on lie in its episode, mean over (B,) starts."""
        starts = starts.to(self._last.device, non_blocking=True)
        return (self._last[starts] - self._target[starts] + 1).clamp(max=self.chunk_size).float().mean()

    def gather(self, starts: Tensor, whole: Tensor | None = None, pin: bool = False) -> Batch:
        """The batch of (B,) starts, a share of those in `whole`; on the cache's device, page-locked if `pin`."""
        valid_steps = self.valid_steps(starts if whole is None else whole)
        starts = starts.to(self.qpos.device, non_blocking=True)

        def pick(values: Tensor) -> Tensor:
            shape = (len(starts), *values.shape[1:])
            out = torch.empty(shape, dtype=values.dtype, device=values.device, pin_memory=pin)
            return torch.index_select(values, 0, starts, out=out)

        images, features = self.frames.images, self.frames.features
        observation = Observation(
            pick(self.qpos),
            self.frames.read(starts) if images is None else {name: pick(each) for name, each in images.items()},
            None if self.env_state is None else pick(self.env_state),
            {name: pick(each) for name, each in features.items()},
        )
        if self._sentence is not None and self.instructions is not None:
            observation.instruction = self.instructions[pick(self._sentence)]
        action, is_pad = self._chunks(starts)
        return Batch(observation, action, is_pad, valid_steps, pick(self.keyframe))

    def _chunks(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The actions (B, k, A) from each of (B,) starts on, and is_pad (B, k)."""
        ahead = torch.arange(self.chunk_size, device=starts.device)
        steps = self._target[starts, None] + ahead  # (B, k)
        last = self._last[starts, None]
        if self._joint_lines is None:
            return self.action[steps.minimum(last)], steps > last
        steps_of, place_in = self._joint_lines  # each joint goes along its own time line
        places = place_in[self._target[starts], None] + ahead[:, None]  # (B, k, A)
        own = steps_of.gather(0, places.clamp(max=len(steps_of) - 1).flatten(0, 1)).view_as(places)
        return self.action.gather(0, own.minimum(last[..., None]).flatten(0, 1)).view_as(places), steps > last

    def batches(
        self, order: ShuffledStarts, first: int, last: int, device: torch.device, num_workers: int = 2
    ) -> Iterator[Batch]:
        """This process' shares of batches first … last - 1 of `order`, on `device`.

        Without a cache, worker processes read ahead, at most one a core.
        """
        numbers = range(first * order.accumulate, last * order.accumulate)
        if self.frames.images is None:
            yield from read_ahead(self, order, numbers, device, num_workers)
            return
        pin = device.type == "cuda" and self.qpos.device.type == "cpu"
        for i in numbers:
            yield self.gather(*order[i], pin).to(device, non_blocking=True)
