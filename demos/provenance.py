"""What determines a recording besides its settings: the scene, the code that runs in it, and package versions.

Episodes of one folder must have the same provenance. What does not change the data is left out: comments, docstrings
and layout, modules that no recording runs, packages other than `MATTERING`.
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from demos.demonstrators import Demonstrator
from envs.bimanual import ASSETS, BimanualEnv

MATTERING = ("mujoco", "numpy")  # physics and pictures; where objects are placed and what operators draw


def provenance(env: BimanualEnv, demonstrator: object) -> dict[str, str]:
    """Root attributes: `scene`, a digest of the MJCF files, and `code`, one of the modules that act and judge."""
    modules = {kind.__module__ for kind in type(env).__mro__ if issubclass(kind, BimanualEnv)}
    modules |= {"demos.ik", "demos.motion", "demos.tool_poses", "envs.aloha", "envs.rollout"}
    described: list[Any] = []
    if isinstance(demonstrator, Demonstrator):  # of the table only its row
        modules |= {getattr(plan, "func", plan).__module__ for plan in demonstrator.motions.values()}
        modules |= {"demos.traits"} if demonstrator.row.traits or demonstrator.added else set()
        described = [repr(demonstrator.row), _meaning(ast.parse(inspect.getsource(type(demonstrator))))]
    else:
        modules.add(type(demonstrator).__module__)
    code = [_meaning(ast.parse(Path(str(sys.modules[name].__file__)).read_text("utf-8"))) for name in sorted(modules)]
    return {"scene": _digest(_texts(ASSETS / env.model_file)), "code": _digest([*code, *described])}


def changes(before: Mapping[str, Any], now: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """Where the origin that an episode's attributes tell differs; what older files do not tell is not compared."""
    try:
        told = dict(json.loads(before.get("versions", "{}")))
    except (ValueError, TypeError):  # written by hand
        told = {}
    told = {name: told.get(name) for name in MATTERING} | {name: before.get(name) for name in now}
    new = {**versions, **now}
    words = {"scene": "the scene (its MJCF files)", "code": "the code of expert and world"}
    return [
        f"{words.get(name, name)} is {old} here, {new[name]} there"
        for name, old in told.items()
        if old not in (None, new[name])
    ]


def _digest(parts: Any) -> str:
    return sha256(json.dumps(list(parts)).encode()).hexdigest()[:12]


def _texts(file: Path) -> Iterator[str]:
    """An MJCF file and what it is made of, without comments."""
    if file.suffix != ".xml":
        yield sha256(file.read_bytes()).hexdigest()  # a mesh, a texture
        return
    yield ElementTree.canonicalize(from_file=file, strip_text=True)
    for element in ElementTree.parse(file).iter():
        if named := element.get("file"):
            yield from _texts(file.parent / named)


def _meaning(node: Any) -> Any:
    """A syntax tree as lists, the same for all versions of Python: without places, docstrings and empty fields."""
    if isinstance(node, list):
        return [_meaning(each) for each in node if not _is_docstring(each)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, _meaning(value)) for name, value in ast.iter_fields(node) if value not in (None, []))
    return [type(node).__name__, *fields]


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
