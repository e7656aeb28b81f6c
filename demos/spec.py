"""What an episode contains, in the words that files, policies and environments share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from demos.arm_names import GRIPPER
from demos.errors import EpisodeError as EpisodeError
from demos.json_checks import as_list, as_mapping, as_number, as_text, as_texts, wrong
from demos.robot import ALOHA_JOINTS as ALOHA_JOINTS
from demos.robot import Robot

FORMAT_VERSION = 2  # of the file, see demos/episode.py; 1 had no checksums
ACTION_LAYOUT = "absolute joint position targets [rad], grippers 0 closed .. 1 open"
"""What files and checkpoints without a robot say of their actions; with ALOHA's joint names they are ALOHA's."""

ActionSemantics = Literal["absolute_joints", "relative_joints", "absolute_ee", "relative_ee"]
"""What an action commands: joint positions or an end effector's pose, absolutely or as a change from the present."""

JpegColors = Literal["auto", "bgr", "rgb"]
"""Order of the colours in JPEG frames; auto is what the file says, else bgr."""

TURNS = 100.0  # rad, sixteen turns: no joint of an arm goes so far; openings and places in metres stay below, too
COUNTS = 2.0**24  # for files that name no unit: degrees, millimetres, what encoders count (4096 a turn, some 24 bits)
LARGEST_SIZE = 16_384  # pixels of a side, numbers of the object poses, columns of an action


@dataclass(frozen=True)
class EpisodeSpec:
    """What an episode contains: the same for all episodes of a dataset, for the policy and for its environment.

    Attributes:
        robot: the joints of qpos, the arms, the rate of control. Names of joints alone may be given instead.
        cameras: camera → (height, width) in pixels, in the order in which policies see them.
        env_ids: the tasks by their Gymnasium ids; none, one, or those of a policy that learnt several.
        task: what to do, in words.
        env_state_dim: length of the object poses; 0 where there are none.
        action_semantics: what an action commands.
        action_names: of the action's columns; () stands for the joints of qpos.
    """

    robot: Robot
    cameras: dict[str, tuple[int, int]]
    env_ids: tuple[str, ...] = ()
    task: str = ""
    env_state_dim: int = 0
    action_semantics: ActionSemantics = "absolute_joints"
    action_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.robot, Robot):
            object.__setattr__(self, "robot", Robot.from_joint_names(self.robot))
        if isinstance(self.env_ids, str):
            object.__setattr__(self, "env_ids", tuple(self.env_ids.split()))
        if not self.action_names:
            object.__setattr__(self, "action_names", self.robot.joint_names)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Of the columns of qpos."""
        return self.robot.joint_names

    @property
    def fps(self) -> float:
        """Control steps a second."""
        return self.robot.control_hz

    @property
    def env_id(self) -> str:
        """The task's Gymnasium id; of several all of them, with spaces between; "" for none."""
        return " ".join(self.env_ids)

    @property
    def action_dim(self) -> int:
        """A, the columns of an action."""
        return len(self.action_names)

    @property
    def commands_joints(self) -> bool:
        """Whether an action gives the position of every joint: its first columns are those of qpos."""
        same = self.action_names[: len(self.joint_names)] == self.joint_names
        return same and self.action_semantics == "absolute_joints"

    @property
    def relative(self) -> bool:
        """Whether an action is a change from the present state; grippers may be commanded absolutely all the same."""
        return self.action_semantics in ("relative_joints", "relative_ee")

    @property
    def action_grippers(self) -> tuple[int, ...]:
        """The columns of an action that command grippers: by name, or, of unnamed ones, the last of each arm."""
        if self.action_names[: len(self.joint_names)] == self.joint_names:
            return self.robot.grippers
        named = tuple(i for i, name in enumerate(self.action_names) if GRIPPER.search(name))
        if named or not all(re.fullmatch(r"action_\d+", name) for name in self.action_names):
            return named
        grippers, width = len(self.robot.grippers), self.action_dim // max(1, len(self.robot.arms))
        fits = grippers == len(self.robot.arms) and width * grippers == self.action_dim
        return tuple(range(width - 1, self.action_dim, width)) if fits and width > 1 else ()

    @property
    def has_ee_positions(self) -> bool:
        """Whether an action says where each arm's tool shall be, by the robot's forward kinematics."""
        return self.commands_joints and self.robot.has_kinematics

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "robot": self.robot.to_dict(),
            "cameras": {name: list(size) for name, size in self.cameras.items()},
            "env_ids": list(self.env_ids),
            "task": self.task,
            "env_state_dim": self.env_state_dim,
            "action_semantics": self.action_semantics,
            "action_names": list(self.action_names),
        }

    @classmethod
    def from_dict(cls, values: Any) -> "EpisodeSpec":
        """The inverse of `to_dict`; reads what was stored before there were robots, too.

        Raises:
            EpisodeError: a value is missing, of another type, or a size is absurd.
        """
        older = ("joint_names", "fps", "env_id", "action_layout")
        values = as_mapping("spec", values, {*(field.name for field in fields(cls)), *older}, {"cameras"})
        if "robot" in values:
            robot = Robot.from_dict(values["robot"])
        else:
            names = as_texts("joint_names", values.get("joint_names"))
            layout = as_text("action_layout", values.get("action_layout", ACTION_LAYOUT))
            robot = known_robot(names, as_number("fps", values.get("fps", 50.0)), layout)
        cameras = {
            as_text("camera", name): tuple(_size(f"camera {name}", side, 1) for side in as_list(f"camera {name}", size))
            for name, size in as_mapping("cameras", values["cameras"], set(values["cameras"]), set()).items()
        }
        if odd := [name for name, size in cameras.items() if len(size) != 2]:
            raise wrong(f"camera {odd[0]}", list(cameras[odd[0]]), "[height, width]")
        older_ids = as_text("env_id", values.get("env_id", "")).split()
        semantics = values.get("action_semantics", "absolute_joints")
        if semantics not in get_args(ActionSemantics):
            raise wrong("action_semantics", semantics, f"one of {', '.join(get_args(ActionSemantics))}")
        return cls(
            robot,
            cameras,  # pyright: ignore[reportArgumentType] (pairs, as was just checked)
            as_texts("env_ids", values.get("env_ids", older_ids)),
            as_text("task", values.get("task", "")),
            _size("env_state_dim", values.get("env_state_dim", 0), 0),
            semantics,
            as_texts("action_names", values.get("action_names", [])),
        )

    def differences(self, other: "EpisodeSpec") -> list[str]:
        """Where the two disagree, each such as "camera top is 120x160 here, 480x640 there"."""
        mine, theirs = self._in_words(), other._in_words()
        differing = [what for what in mine if theirs.get(what, mine[what]) != mine[what]]
        return [f"{what} is {mine[what]} here, {theirs[what]} there" for what in differing]

    def _in_words(self) -> dict[str, str]:
        """Aspect → value. What only one of two specs has, such as a chain, is no difference."""
        names = self.joint_names
        actions = "that of the joints" if self.action_names == names else f"[{', '.join(self.action_names)}]"
        return {
            "the list of cameras": f"[{', '.join(self.cameras)}]",
            **{f"camera {name}": f"{height}x{width}" for name, (height, width) in self.cameras.items()},
            "the list of joints": f"[{', '.join(names)}]",
            "the list of actions": actions,
            "action_semantics": self.action_semantics,
            "env_state_dim": str(self.env_state_dim),
            "fps": f"{self.fps:g}",
            **{name: repr(getattr(self, name)) for name in ("env_id", "task")},
            **self.robot.in_words(),
        }


def known_robot(joint_names: Sequence[str], control_hz: float, action_layout: str) -> Robot:
    """The robot of a file or checkpoint of this toolkit that stores none: ALOHA by its names and action layout."""
    if action_layout == ACTION_LAYOUT:
        return Robot.from_joint_names(joint_names, control_hz)
    return Robot.from_joint_names(joint_names, control_hz).without_kinematics()


def default_action_names(joint_names: tuple[str, ...], columns: int) -> tuple[str, ...]:
    """Names of so many columns of an action: the joints', and more numbers behind them; only numbers if there are fewer
    columns than joints."""
    named = joint_names if columns >= len(joint_names) else ()
    return (*named, *(f"action_{i}" for i in range(len(named), columns)))


def largest(name: str, in_rad: bool) -> float:
    """The largest magnitude that a value of the array `name` can have; what lies beyond is an accident.

    Radians are believed only where the file says so; velocities and efforts come in units of their own, so for them
    the bound is a thousand times wider. A reward may be anything.
    """
    bound = TURNS if in_rad else COUNTS
    return {"qvel": 1000 * bound, "effort": 1000 * bound, "reward": float("inf")}.get(name, bound)


def _size(where: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_SIZE:
        raise wrong(where, value, f"a whole number from {least} to {LARGEST_SIZE}")
    return value
