"""A robot as data: its joints, its arms, their grippers and kinematic chains. Stored as JSON in files and checkpoints.

    robot = Robot(("waist", "elbow", "gripper"), arms=(Arm("arm", joints=(0, 1), gripper=2),), control_hz=20)

The columns of qpos are the joints, in order. An arm names its columns. A chain, if it is known, gives the position of
the arm's tool: demonstrations then tell where an arm was going (`demos.hindsight`), in metres and from every side.
`Robot.from_joint_names` finds arms and grippers by their names; `demos.robot_files` reads chains from MJCF and URDF.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, get_args

from demos.arm_names import find_arms
from demos.errors import EpisodeError
from demos.json_checks import as_list, as_mapping, as_number, as_numbers, as_text, as_texts, is_number, wrong

Axis = Literal["x", "y", "z", "-x", "-y", "-z"]
Unit = Literal["rad", "deg", "m", "mm", "percent", "fraction", ""]
"""percent: -100 … 100 over the joint's limits; fraction: 0 … 1 over them; "" where it is not known."""

MAX_JOINTS = 1000


@dataclass(frozen=True)
class Link:
    """One joint of a chain. A point v in the frame after the joint is offset + rotation · motion(q) · v before it.

    Attributes:
        joint: the column of qpos.
        axis: about which it turns, or along which it slides, in the frame after `rotation`.
        offset: m.
        rotation: quaternion (w, x, y, z) of length 1.
        slides: it is prismatic.
    """

    joint: int
    axis: Axis
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    slides: bool = False


@dataclass(frozen=True)
class Chain:
    """The joints from an arm's base to its tool.

    Attributes:
        links: from the base to the tool.
        tool: tool centre point in the frame after the last joint, m.
    """

    links: tuple[Link, ...]
    tool: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: such as "left".
        joints: the columns of its joints, without its gripper.
        gripper: the column of its gripper's opening, in any unit and direction; None: it has none.
        chain: where its tool is; None: not known. It may pass through joints that two arms share.
        gripper_range: the gripper's openings that a simulated robot can reach, in the unit of qpos. A command beyond
            leaves a difference between command and opening that no object causes.
    """

    name: str
    joints: tuple[int, ...]
    gripper: int | None = None
    chain: Chain | None = None
    gripper_range: tuple[float, float] | None = None

    @property
    def columns(self) -> tuple[int, ...]:
        """Its joints and its gripper."""
        return self.joints if self.gripper is None else (*self.joints, self.gripper)


@dataclass(frozen=True)
class Robot:
    """The joints and arms that qpos has, and the rate of control.

    Attributes:
        joint_names: of the columns of qpos.
        arms: none where they are not known.
        control_hz: steps a second.
        units: of each column; () where none is known.
        limits: of each column, (low, high) in rad or m, or None; () where none is known.
        name: such as "aloha".

    Raises:
        EpisodeError: a column does not exist or belongs to two arms, or a value makes no sense.
    """

    joint_names: tuple[str, ...]
    arms: tuple[Arm, ...] = ()
    control_hz: float = 50.0
    units: tuple[Unit, ...] = ()
    limits: tuple[tuple[float, float] | None, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        names, n = self.joint_names, len(self.joint_names)
        if n > MAX_JOINTS or len(set(names)) != n or not all(isinstance(name, str) and name for name in names):
            raise wrong("joint_names", list(names), f"at most {MAX_JOINTS} different texts")
        if not (is_number(self.control_hz) and 0 < self.control_hz <= 100_000):
            raise wrong("control_hz", self.control_hz, "a positive number of steps a second, such as 50.0")
        for name in ("units", "limits"):
            if (given := getattr(self, name)) and len(given) != n:
                raise wrong(name, f"a list of {len(given)}", f"a list of {n}, one for each joint")
        if unknown := [unit for unit in self.units if unit not in get_args(Unit)]:
            raise wrong("units", unknown[0], f"one of {', '.join(map(repr, get_args(Unit)))}")
        if turned := [pair for pair in self.limits if pair is not None and not pair[0] < pair[1]]:
            raise wrong("limits", list(turned[0]), "[low, high] with low < high, or null")
        columns = [column for arm in self.arms for column in arm.columns]
        if len(set(columns)) != len(columns) or any(not 0 <= column < n for column in columns):
            raise wrong("arms", columns, f"columns 0 … {n - 1}, each in one arm only")
        for arm in self.arms:
            for link in arm.chain.links if arm.chain else ():
                if not 0 <= link.joint < n:
                    raise wrong(f"arm {arm.name}: chain", link.joint, f"of columns 0 … {n - 1}")
                if self.unit(link.joint) in ("percent", "fraction") and self.limit(link.joint) is None:
                    raise wrong(f"limits of {names[link.joint]}", None, "given: its unit needs them")

    @property
    def has_kinematics(self) -> bool:
        """Whether the tool position of every arm is known from qpos."""
        return bool(self.arms) and all(arm.chain is not None for arm in self.arms)

    @property
    def grippers(self) -> tuple[int, ...]:
        """The columns of the arms' grippers."""
        return tuple(arm.gripper for arm in self.arms if arm.gripper is not None)

    @cached_property
    def block_width(self) -> int:
        """Columns of an arm, if the arms are alike, in one block after the other, joints first; else 0."""
        width = len(self.joint_names) // max(1, len(self.arms))
        scales = [self.to_si(column) for column in range(len(self.joint_names))]
        equal = bool(scales) and scales == scales[:width] * len(self.arms)
        alike = all(arm == _shifted(self.arms[0], arm.name, i * width) for i, arm in enumerate(self.arms))
        return width if equal and alike and self.arms[0].joints == tuple(range(len(self.arms[0].joints))) else 0

    @property
    def in_rad(self) -> bool:
        """Whether its joints are known to be in rad, so that large numbers are an accident."""
        return "rad" in self.units and not {"deg", "percent"} & set(self.units)

    def unit(self, column: int) -> Unit:
        return self.units[column] if self.units else ""

    def limit(self, column: int) -> tuple[float, float] | None:
        return self.limits[column] if self.limits else None

    def limit_of_qpos(self, column: int) -> tuple[float, float] | None:
        """A joint's limits in its own unit."""
        if (limit := self.limit(column)) is None:
            return None
        scale, offset = self.to_si(column)
        return (limit[0] - offset) / scale, (limit[1] - offset) / scale

    def to_si(self, column: int) -> tuple[float, float]:
        """(scale, offset): scale · value + offset is rad or m. Values of unknown unit are taken as they are."""
        unit, (low, high) = self.unit(column), self.limit(column) or (0.0, 0.0)
        if unit == "percent":
            return (high - low) / 200, (low + high) / 2
        if unit == "fraction":
            return high - low, low
        return {"deg": math.pi / 180, "mm": 0.001}.get(unit, 1.0), 0.0

    def steps(self, seconds: float) -> int:
        """How many control steps these seconds are, at least one."""
        return max(1, round(seconds * self.control_hz))

    @classmethod
    def from_joint_names(cls, joint_names: Sequence[str], control_hz: float = 50.0) -> "Robot":
        """A robot of which only the names are known: ALOHA if they are ALOHA's.

        See `demos.arm_names` for how arms and grippers are found; without a gripper and without sides none is.
        """
        names = tuple(joint_names)
        if names == ALOHA_JOINTS:
            return replace(ALOHA, control_hz=control_hz)
        return cls(names, tuple(Arm(*each) for each in find_arms(names)), control_hz)

    def reordered(self, joint_names: Sequence[str]) -> "Robot":
        """The same robot with the columns in this order.

        Raises:
            EpisodeError: these are other joints.
        """
        if sorted(joint_names) != sorted(self.joint_names):
            raise wrong("joint_names", list(self.joint_names), f"those of the episodes, {list(joint_names)}")
        described = self.to_dict()
        place = [self.joint_names.index(name) for name in joint_names]
        moved = {
            key: [described[key][i] for i in place] for key in ("joint_names", "units", "limits") if key in described
        }
        return Robot.from_dict(described | moved)

    def without_kinematics(self) -> "Robot":
        """The same joints, arms and grippers; chains, units and limits not known."""
        arms = (replace(arm, chain=None, gripper_range=None) for arm in self.arms)
        return Robot(self.joint_names, tuple(arms), self.control_hz)

    def in_words(self) -> dict[str, str]:
        """Aspect → value, of what can be compared: arms, their chains, units."""
        words = {"the list of units": f"[{', '.join(self.units)}]"} if self.units else {}
        for arm in self.arms:
            described = _arm_to_dict(arm, self.joint_names)
            gripper = described.get("gripper", "no gripper")
            words[f"arm {arm.name}"] = f"[{', '.join(described['joints'])}] with {gripper}"
            if "chain" in described:
                digest = sha256(json.dumps(described["chain"]).encode()).hexdigest()[:8]
                words[f"the chain of arm {arm.name}"] = f"{len(described['chain']['links'])} joints (checksum {digest})"
        return words

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON. Columns stand there by the names of their joints."""
        names = self.joint_names
        optional = {
            "units": list(self.units),
            "limits": [None if pair is None else list(pair) for pair in self.limits],
            "name": self.name,
        }
        return {
            "joint_names": list(names),
            "control_hz": self.control_hz,
            "arms": [_arm_to_dict(arm, names) for arm in self.arms],
            **{key: value for key, value in optional.items() if value},
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Robot":
        """The inverse of `to_dict`.

        Raises:
            EpisodeError: a value is missing, unknown, of another type or makes no sense.
        """
        values = as_mapping("robot", values, {field.name for field in fields(cls)}, {"joint_names"})
        names = as_texts("joint_names", values["joint_names"])
        arms, limits = (as_list(name, values.get(name, [])) for name in ("arms", "limits"))
        return cls(
            names,
            tuple(_arm_from_dict(f"arms[{i}]", arm, names) for i, arm in enumerate(arms)),
            as_number("control_hz", values.get("control_hz", 50.0)),
            as_texts("units", values.get("units", [])),  # pyright: ignore[reportArgumentType] (checked by the class)
            tuple(None if pair is None else as_numbers(f"limits[{i}]", pair, 2) for i, pair in enumerate(limits)),
            as_text("name", values.get("name", "")),
        )

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Robot":
        """The inverse of `to_json`; EpisodeError as of `from_dict`."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise EpisodeError(f"robot: is no JSON ({error})") from error
        return cls.from_dict(values)


def _shifted(arm: Arm, name: str, by: int) -> Arm:
    """An arm under another name, in columns further on."""
    links = [replace(link, joint=link.joint + by) for link in (arm.chain.links if arm.chain else ())]
    return replace(
        arm,
        name=name,
        joints=tuple(column + by for column in arm.joints),
        gripper=None if arm.gripper is None else arm.gripper + by,
        chain=arm.chain and replace(arm.chain, links=tuple(links)),
    )


def _arm_to_dict(arm: Arm, names: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {"name": arm.name, "joints": [names[i] for i in arm.joints]}
    if arm.gripper is not None:
        values["gripper"] = names[arm.gripper]
    if arm.gripper_range is not None:
        values["gripper_range"] = list(arm.gripper_range)
    if arm.chain is not None:
        links = [
            {
                "joint": names[link.joint],
                "axis": link.axis,
                **({"offset": list(link.offset)} if any(link.offset) else {}),
                **({"rotation": list(link.rotation)} if link.rotation != (1, 0, 0, 0) else {}),
                **({"slides": True} if link.slides else {}),
            }
            for link in arm.chain.links
        ]
        values["chain"] = {"links": links, "tool": list(arm.chain.tool)}
    return values


def _arm_from_dict(where: str, values: Any, names: tuple[str, ...]) -> Arm:
    values = as_mapping(where, values, {field.name for field in fields(Arm)}, {"name", "joints"})
    gripper, chain, span = values.get("gripper"), values.get("chain"), values.get("gripper_range")
    return Arm(
        as_text(f"{where}.name", values["name"]),
        tuple(_column(f"{where}.joints", name, names) for name in as_list(f"{where}.joints", values["joints"])),
        None if gripper is None else _column(f"{where}.gripper", gripper, names),
        None if chain is None else _chain_from_dict(f"{where}.chain", chain, names),
        None if span is None else as_numbers(f"{where}.gripper_range", span, 2),
    )


def _chain_from_dict(where: str, values: Any, names: tuple[str, ...]) -> Chain:
    values = as_mapping(where, values, {"links", "tool"}, {"links"})
    links = []
    for i, link in enumerate(as_list(f"{where}.links", values["links"])):
        at = f"{where}.links[{i}]"
        link = as_mapping(at, link, {field.name for field in fields(Link)}, {"joint", "axis"})
        if link["axis"] not in get_args(Axis):
            raise wrong(f"{at}.axis", link["axis"], f"one of {', '.join(get_args(Axis))}")
        rotation = as_numbers(f"{at}.rotation", link.get("rotation", [1, 0, 0, 0]), 4)
        if abs(sum(part * part for part in rotation) - 1) > 1e-6:
            raise wrong(f"{at}.rotation", list(rotation), "a quaternion w, x, y, z of length 1")
        if not isinstance(slides := link.get("slides", False), bool):
            raise wrong(f"{at}.slides", slides, "true or false")
        offset = as_numbers(f"{at}.offset", link.get("offset", [0, 0, 0]), 3)
        links.append(Link(_column(f"{at}.joint", link["joint"], names), link["axis"], offset, rotation, slides))
    return Chain(tuple(links), as_numbers(f"{where}.tool", values.get("tool", [0, 0, 0]), 3))


def _column(where: str, name: Any, names: tuple[str, ...]) -> int:
    if name not in names:
        raise wrong(where, name, f"a joint's name: {', '.join(names)}")
    return names.index(name)


ALOHA_GRIPPER_RANGE = (0.021 - 0.01844) / 0.03956, (0.057 - 0.01844) / 0.03956
"""What ALOHA's simulated grippers reach, 0 closed … 1 open: the finger's range in m, (x - closed) / (open - closed)."""


def _aloha() -> Robot:
    """Two ViperX 300 6-DoF: link lengths and limits of https://github.com/tonyzhaozh/act (assets/vx300s_left.xml), tool
    centre point between the fingertips. Each arm's frame is its base: x ahead, towards the other arm, z up."""
    names = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
    limits = (
        (-3.14158, 3.14158), (-1.85005, 1.25664), (-1.76278, 1.6057), (-3.14158, 3.14158), (-1.8675, 2.23402),
        (-3.14158, 3.14158), None,
    )  # fmt: skip
    arms = []
    for i, side in enumerate(("left", "right")):
        first = 7 * i
        links = (
            Link(first, "z"),
            Link(first + 1, "y", (0.0, 0.0, 0.079 + 0.04805)),
            Link(first + 2, "y", (0.05955, 0.0, 0.3)),
            Link(first + 3, "x"),
            Link(first + 4, "y", (0.2 + 0.1, 0.0, 0.0)),
            Link(first + 5, "x"),
        )
        chain = Chain(links, (0.069744 + 0.135, 0.0, 0.0))
        arms.append(Arm(side, tuple(range(first, first + 6)), first + 6, chain, ALOHA_GRIPPER_RANGE))
    joints = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in (*names, "gripper"))
    arm_units: tuple[Unit, ...] = ("rad", "rad", "rad", "rad", "rad", "rad", "")
    return Robot(joints, tuple(arms), 50.0, arm_units * 2, limits * 2, "aloha")


ALOHA = _aloha()
ALOHA_JOINTS = ALOHA.joint_names
