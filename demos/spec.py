"""What an episode contains, in the words that files, policies and environments share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

FORMAT_VERSION = 2  # of the file, see demos/episode.py; 1 had no checksums
ACTION_LAYOUT = "absolute joint position targets [rad], grippers 0 closed .. 1 open"
ALOHA_JOINTS = tuple(
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
)

JpegColors = Literal["auto", "bgr", "rgb"]
"""Order of the colours in JPEG frames; auto is what the file says, else bgr."""

TURNS = 100.0  # rad, sixteen turns: no joint of an arm goes so far; openings and places in metres stay below, too
COUNTS = 2.0**24  # for files that name no unit: degrees, millimetres, what encoders count (4096 a turn, some 24 bits)
LARGEST_SIZE = 16_384  # pixels of a side, numbers of the object poses


class EpisodeError(ValueError):
    """A data file or folder that cannot be used: one line that names it, what is wrong and what would work."""


@dataclass(frozen=True)
class EpisodeSpec:
    """What an episode contains: the same for all episodes of a dataset, for the policy and for its environment."""

    joint_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    """Camera → (height, width) in pixels, in the order in which policies see them."""
    fps: float = 50.0
    env_id: str = ""
    """The task; of a policy that learnt several tasks all of them, with spaces between."""
    task: str = ""
    env_state_dim: int = 0
    """Length of the object poses; 0 where there are none."""
    action_layout: str = ACTION_LAYOUT

    @property
    def env_ids(self) -> tuple[str, ...]:
        """The tasks one by one."""
        return tuple(self.env_id.split())

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        cameras = {name: list(size) for name, size in self.cameras.items()}
        return asdict(self) | {"joint_names": list(self.joint_names), "cameras": cameras}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EpisodeSpec":
        """The inverse of `to_dict`.

        Raises:
            EpisodeError: a value is of another type, or a size is absurd.
        """
        cameras = {name: (int(height), int(width)) for name, (height, width) in values["cameras"].items()}
        spec = cls(**{**values, "joint_names": tuple(values["joint_names"]), "cameras": cameras})
        texts = (*spec.joint_names, *cameras, spec.env_id, spec.task, spec.action_layout)
        sizes = [1 + spec.env_state_dim, *(size for shape in cameras.values() for size in shape)]
        fits = all(isinstance(text, str) for text in texts) and all(0 < size <= LARGEST_SIZE for size in sizes)
        if not fits or isinstance(spec.fps, bool) or not spec.fps > 0:
            raise EpisodeError(
                f"no episode has cameras {cameras}, env_state_dim {spec.env_state_dim}, {spec.fps} fps …"
            )
        return spec

    def differences(self, other: "EpisodeSpec") -> list[str]:
        """Where the two disagree, each such as "camera top is 120x160 here, 480x640 there"."""
        mine, theirs = self._in_words(), other._in_words()
        differing = [what for what in mine if theirs.get(what, mine[what]) != mine[what]]
        return [f"{what} is {mine[what]} here, {theirs[what]} there" for what in differing]

    def _in_words(self) -> dict[str, str]:
        return {
            "the list of cameras": f"[{', '.join(self.cameras)}]",
            **{f"camera {name}": f"{height}x{width}" for name, (height, width) in self.cameras.items()},
            "the list of joints": f"[{', '.join(self.joint_names)}]",
            "env_state_dim": str(self.env_state_dim),
            "fps": f"{self.fps:g}",
            **{name: repr(getattr(self, name)) for name in ("env_id", "task", "action_layout")},
        }


def largest(name: str, action_layout: str | None) -> float:
    """The largest magnitude that a value of the array `name` can have; what lies beyond is an accident.

    Radians are believed only where the file says so; velocities and efforts come in units of their own, so for them
    the bound is a thousand times wider. A reward may be anything.
    """
    bound = TURNS if action_layout == ACTION_LAYOUT else COUNTS
    return {"qvel": 1000 * bound, "effort": 1000 * bound, "reward": float("inf")}.get(name, bound)
