"""A robot from a file: its own JSON, or MJCF or URDF, of which arms, grippers, limits and kinematic chains are read.

MuJoCo parses MJCF and URDF. An arm is the joints from the root of the model to a gripper: joints that are named so
(`demos.arm_names`), or those of several short branches of one body. The tool centre point is a site of the gripper
whose name says so (grip, pinch, tcp, ee …), or else the middle of the fingers' geometries. Joints through which two
arms pass (a torso) belong to both chains and to neither arm.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from demos.arm_names import GRIPPER, SIDE
from demos.episode import Episode
from demos.errors import EpisodeError
from demos.guesses import with_units_of
from demos.kinematics import rotation_matrix
from demos.robot import Arm, Axis, Chain, Link, Robot, Unit

TOOL_SITE = re.compile(r"grip|pinch|tcp|(?:^|[_/:-])eef?(?:[_/:-]|$)|end_?effector|attachment|tool", re.I)
FINGER_JOINTS = 4  # at most, of one branch of a gripper whose joints have no telling names
EXACT = 1e-9  # of offsets and rotations: what is smaller is zero


def read_robot(path: str | Path, joint_names: Sequence[str] | None = None, control_hz: float = 50.0) -> Robot:
    """The robot that a file describes.

    Args:
        path: .json as `Robot.to_dict` gives it, or .xml, .mjcf or .urdf.
        joint_names: of the columns of qpos. They must be the file's joints in any order, or as many as these (all
            fingers of a gripper counting as one joint or each as its own) in the same order. None: as in the file.
        control_hz: steps a second; a JSON file says it itself.

    Raises:
        EpisodeError: the file is no robot, or has other joints.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            robot = Robot.from_json(path.read_text("utf-8"))
            return robot if joint_names is None else _in_order(robot, joint_names)
        return robot_from_model(_load(path), joint_names, control_hz)
    except OSError as error:
        raise EpisodeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except EpisodeError as error:
        raise EpisodeError(f"{path}: {error}") from error
    except ValueError as error:
        line = " ".join(str(error).split())
        raise EpisodeError(f"{path}: is no robot ({line}); use MJCF, URDF or the JSON of a Robot") from error


def robot_for(path: str | Path, episode: Episode) -> tuple[Robot, str]:
    """The robot that a file describes, with the columns, the rate and the units of an episode; and a note on units."""
    spec = episode.spec
    names = episode.attributes.get("joint_names") or spec.joint_names
    return with_units_of(read_robot(path, names, spec.fps), episode.qpos)


def _load(path: Path) -> Any:
    from envs.gl import mujoco  # only here: files of episodes are read without a simulator

    text = path.read_text("utf-8")
    if "<robot" not in text:
        return mujoco.MjModel.from_xml_path(str(path))
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    for link in root.iter("link"):  # shapes move nothing, and their meshes are seldom beside the file
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            link.remove(shape)
    compiler = {"fusestatic": "false", "balanceinertia": "true", "boundmass": "0.001", "boundinertia": "0.000001"}
    ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler", compiler)
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, "unicode"))


def robot_from_model(model: Any, joint_names: Sequence[str] | None = None, control_hz: float = 50.0) -> Robot:
    """The robot of a MuJoCo model; arguments as of `read_robot`. Joints of bodies that move freely are objects'."""
    tree = _Tree(model)
    palms = tree.palms()
    extra = {joint for joints in palms.values() for joint in joints[1:]}  # all fingers but the first
    columns = _match(tree, [j for j in tree.joints if j not in extra], joint_names) if joint_names else tree.joints
    names = tuple(joint_names or (tree.name(joint) for joint in columns))
    ends = sorted([*palms, *tree.ends(palms)])
    paths = {end: [joint for joint in tree.path(end) if joint in columns] for end in ends}
    used = [joint for path in paths.values() for joint in path]
    arms = []
    for i, (palm, path) in enumerate(paths.items()):
        own = [joint for joint in path if used.count(joint) == 1]
        side = next((match[1].lower() for joint in own if (match := SIDE.search(tree.name(joint)))), None)
        name = {"l": "left", "r": "right"}.get(side or "", side) or (f"arm{i}" if len(paths) > 1 else "arm")
        gripper = next((columns.index(joint) for joint in palms.get(palm, []) if joint in columns), None)
        if own:
            arms.append(Arm(name, tuple(map(columns.index, own)), gripper, tree.chain(palm, columns)))
    if len({arm.name for arm in arms}) < len(arms):
        arms = [replace(arm, name=f"arm{i}") for i, arm in enumerate(arms)]
    units: tuple[Unit, ...] = tuple(tree.unit(joint) for joint in columns)
    limits = tuple(tree.limit(joint) for joint in columns)
    if joint_names and columns != tree.joints:  # the opening of a gripper whose fingers are one column may be anything
        grippers = {arm.gripper for arm in arms}
        units = tuple("" if i in grippers else unit for i, unit in enumerate(units))
        limits = tuple(None if i in grippers else limit for i, limit in enumerate(limits))
    return Robot(names, tuple(arms), control_hz, units, limits)


def _in_order(robot: Robot, joint_names: Sequence[str]) -> Robot:
    if sorted(robot.joint_names) != sorted(joint_names) and len(robot.joint_names) == len(joint_names):
        return replace(robot, joint_names=tuple(joint_names))
    return robot.reordered(joint_names)


def _match(tree: "_Tree", without_extra: list[int], joint_names: Sequence[str]) -> list[int]:
    """The model's joint of every column."""
    plain = {_plain(tree.name(joint)): joint for joint in tree.joints}
    if all(_plain(name) in plain for name in joint_names):
        return [plain[_plain(name)] for name in joint_names]
    for candidates in (tree.joints, without_extra):
        if len(candidates) == len(joint_names):
            return candidates
    known, given = ", ".join(map(tree.name, tree.joints)), ", ".join(joint_names)
    raise EpisodeError(f"has {len(tree.joints)} joints ({known}); qpos has {len(joint_names)} ({given})")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]|\.pos$", "", name.lower())


class _Tree:
    """The hinges and slides of a model, and the bodies that they move."""

    def __init__(self, model: Any):
        self.model, self.parent = model, model.body_parentid.tolist()
        free, hinge, slide = 0, 3, 2
        kinds = model.jnt_type.tolist()
        objects = {int(model.jnt_bodyid[i]) for i, kind in enumerate(kinds) if kind == free}
        loose = {body for body in objects if len(self._below(body)) <= 1 or not self._moves(body, (hinge, slide))}
        of_objects = {each for body in loose for each in self._below(body)}
        self.joints = [i for i, kind in enumerate(kinds) if kind in (hinge, slide) and self.body(i) not in of_objects]
        if not self.joints:
            raise EpisodeError("has no hinge or slide joint")
        self.slides = [kind == slide for kind in kinds]

    def body(self, joint: int) -> int:
        return int(self.model.jnt_bodyid[joint])

    def name(self, joint: int) -> str:
        return self.model.joint(joint).name or f"joint_{joint}"

    def unit(self, joint: int) -> Unit:
        return "m" if self.slides[joint] else "rad"

    def limit(self, joint: int) -> tuple[float, float] | None:
        low, high = self.model.jnt_range[joint].tolist()
        return (low, high) if self.model.jnt_limited[joint] and low < high else None

    def _moves(self, body: int, kinds: tuple[int, ...]) -> bool:
        below = self._below(body)
        return any(self.body(i) in below and kind in kinds for i, kind in enumerate(self.model.jnt_type.tolist()))

    def _below(self, body: int) -> list[int]:
        """A body and all that hang on it; a body's number is greater than its parent's."""
        found = {body}
        for other in range(body + 1, len(self.parent)):
            found |= {other} if self.parent[other] in found else set()
        return sorted(found)

    def _bodies(self, body: int) -> list[int]:
        """From the root of the model to a body."""
        found = [body]
        while found[0] != 0:
            found.insert(0, self.parent[found[0]])
        return found

    def path(self, body: int) -> list[int]:
        """The joints that move a body, from the root on."""
        return [joint for each in self._bodies(body) for joint in self.joints if self.body(joint) == each]

    def ends(self, palms: Collection[int]) -> list[int]:
        """The last bodies of branches without a gripper, with more than half of the joints of the longest."""
        held = {each for palm in palms for body in self._bodies(palm)[1:] for each in self._below(body)}
        moved = {self.body(joint) for joint in self.joints}
        last = [body for body in sorted(moved) if not moved & set(self._below(body)) - {body}]
        most = max(len(self.path(body)) for body in last)
        return [max(self._below(body)) for body in last if len(self.path(body)) > most / 2 and body not in held]

    def palms(self) -> dict[int, list[int]]:
        """The body on which a gripper's fingers hang → its joints."""
        fingers = [i for i in self.joints if GRIPPER.search(self.name(i))] or self._branches()
        palms: dict[int, list[int]] = {}
        for joint in fingers:
            body = self.parent[self.body(joint)]
            while body and (own := [i for i in self.joints if self.body(i) == body]) and all(i in fingers for i in own):
                body = self.parent[body]
            palms.setdefault(body, []).append(joint)
        return {palm: joints for palm, joints in palms.items() if set(self.path(palm)) - set(fingers)}

    def _branches(self) -> list[int]:
        """The joints of several short branches of one body."""
        found: list[int] = []
        for body in range(len(self.parent)):
            children = [i for i in range(len(self.parent)) if self.parent[i] == body and i != body]
            branches = [[j for j in self.joints if self.body(j) in self._below(child)] for child in children]
            branches = [joints for joints in branches if joints]
            if self.path(body) and len(branches) > 1 and all(len(joints) <= FINGER_JOINTS for joints in branches):
                found += [j for joints in branches for j in joints if j not in found]
        return found

    def chain(self, palm: int, columns: list[int]) -> Chain:
        """From the body that carries the first joint to the tool. Joints that are no column stay where they are."""
        bodies = self._bodies(palm)
        first = next(i for i, body in enumerate(bodies) if any(self.body(j) == body for j in columns))
        links: list[Link] = []
        place, turn = np.zeros(3), np.eye(3)  # of the present frame in that of the last joint
        for body in bodies[first:]:
            place = place + turn @ self.model.body_pos[body]
            turn = turn @ rotation_matrix(self.model.body_quat[body])
            for joint in (j for j in self.joints if self.body(j) == body and j in columns):
                anchor, (axis, aligned) = self.model.jnt_pos[joint], _aligned(self.model.jnt_axis[joint])
                rest, rotation = float(self.model.qpos0[self.model.jnt_qposadr[joint]]), turn @ aligned
                offset, unit = place + turn @ anchor, np.eye(3)["xyz".index(axis[-1])] * (-1 if axis[0] == "-" else 1)
                if self.slides[joint]:
                    offset = offset - rest * rotation @ unit
                elif rest:
                    half = np.array([np.cos(rest / 2), *(-np.sin(rest / 2) * unit)])
                    rotation = rotation @ rotation_matrix(half)
                links.append(
                    Link(columns.index(joint), axis, _clean(offset), _quaternion(rotation), self.slides[joint])
                )
                place, turn = -aligned.T @ anchor, aligned.T
        return Chain(tuple(links), _clean(place + turn @ self._tool(palm)))

    def _tool(self, palm: int) -> np.ndarray:
        """The tool centre point in the frame of the palm, m, with all joints at rest."""
        from envs.gl import mujoco

        model, data = self.model, mujoco.MjData(self.model)
        data.qpos[:] = model.qpos0
        mujoco.mj_kinematics(model, data)
        below = set(self._below(palm))
        sites = [
            i for i in range(model.nsite) if model.site_bodyid[i] in below and TOOL_SITE.search(model.site(i).name)
        ]
        shapes = [i for i in range(model.ngeom) if model.geom_bodyid[i] in below - {palm}]
        fingers = [self.body(j) for j in self.joints if self.body(j) in below - {palm}]
        if sites:
            point = data.site_xpos[sites[0]]
        elif fingers:
            point = data.geom_xpos[shapes].mean(axis=0) if shapes else data.xpos[fingers].mean(axis=0)
        else:
            point = data.xpos[max(below)]
        return data.xmat[palm].reshape(3, 3).T @ (point - data.xpos[palm])


def _aligned(axis: np.ndarray) -> tuple[Axis, np.ndarray]:
    """An axis of a frame, and the rotation (3, 3) of that frame, which together are `axis`, (3,)."""
    names: tuple[Axis, ...] = ("x", "y", "z", "-x", "-y", "-z")
    for name, unit in zip(names, np.concatenate([np.eye(3), -np.eye(3)]), strict=True):
        if np.abs(axis - unit).max() < EXACT:
            return name, np.eye(3)
    z = axis / np.linalg.norm(axis)
    x = np.cross(np.eye(3)[np.abs(z).argmin()], z)
    x /= np.linalg.norm(x)
    return "z", np.stack([x, np.cross(z, x), z], axis=1)


def _clean(vector: np.ndarray) -> Any:
    return tuple(0.0 if abs(value) < EXACT else float(value) for value in vector)


def _quaternion(matrix: np.ndarray) -> Any:
    """(w, x, y, z) of a rotation matrix."""
    if np.abs(matrix - np.eye(3)).max() < EXACT:
        return 1.0, 0.0, 0.0, 0.0
    k = np.array(
        [
            [matrix.trace(), 0, 0, 0],
            [matrix[2, 1] - matrix[1, 2], 2 * matrix[0, 0] - matrix.trace(), 0, 0],
            [matrix[0, 2] - matrix[2, 0], matrix[0, 1] + matrix[1, 0], 2 * matrix[1, 1] - matrix.trace(), 0],
            [
                matrix[1, 0] - matrix[0, 1],
                matrix[0, 2] + matrix[2, 0],
                matrix[1, 2] + matrix[2, 1],
                2 * matrix[2, 2] - matrix.trace(),
            ],
        ]
    )
    quaternion = np.linalg.eigh(k)[1][:, -1]  # Bar-Itzhack 2000: the eigenvector of the largest eigenvalue
    return tuple((quaternion * (1 if quaternion[0] >= 0 else -1)).tolist())
