"""Demonstrate in a browser: drag the tools of both arms, or drive them by keys, and save what succeeds.

    python scripts/teleop.py --task transfer_cube --out data/human
    python scripts/teleop.py --task transfer_cube --out data/human --assist left   # the scripted expert is the left arm
    python scripts/teleop.py --checkpoint runs/cube --out data/corrections         # correct what a policy does

The page opens at http://127.0.0.1:8080. From another machine: ssh -L 8080:127.0.0.1:8080 HOST. The files are those of
scripts/record.py, with a mark at every step in which a person acted, and can be trained on together with them.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import UseAppendAction

from act.agent_settings import AgentSettings
from act.run_folder import find_checkpoint
from demos.demonstrators import Demonstrator
from demos.phrases import SEEN, phrasings
from demos.session import Session
from demos.teleop import TeleopAgent
from envs import EnvError, env_id
from scripts.acting import agent_from, tasks_of
from scripts.common import run
from scripts.outputs import check_folder, only_writer


@dataclass(frozen=True)
class Args:
    """Demonstrate in a browser: drag the tools of both arms, or drive them by keys, and save what succeeds."""

    out: Path
    """Folder of the episodes: episode_0.hdf5, episode_1.hdf5 and so on; those already there stay."""
    task: str | None = None
    """transfer_cube, insertion, hand_over, give_cube, lift_tray, stack or tip; default: the one that the policy of
    --checkpoint was trained on."""
    instruction: str = ""
    """What is to be done, in words, for the page, for the files and for a policy that listens; default: one of the
    phrasings that are known for the task, for each of its ways in turn."""
    assist: Literal["none", "left", "right"] = "none"
    """The arm that the scripted expert moves while you move the other one."""
    checkpoint: Path | None = None
    """Run folder or checkpoint of a policy, which acts until you grab a gizmo or press a key; then you correct it."""
    text_encoder: str | None = None
    """module:function of the policy's text encoder, to embed instructions that are new to the policy. Other encoders
    than minilm run only if you name them here."""
    cameras: tuple[str, ...] = ("top",)
    """Cameras to record; with --checkpoint those that the policy was trained with."""
    height: int = 120
    """Picture height in pixels."""
    width: int = 160
    """Picture width in pixels."""
    seed: int | None = None
    """Seed of the first episode; default: behind the folder's last one, or 20,000."""
    horizon: int = 3000
    """The most steps of an episode; 3,000 are a minute."""
    patience: int = 0
    """Steps without motion after which time stops until you move again, so that you may think; 0: never."""
    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: only this machine. Any other, such as 0.0.0.0: whoever has the printed address,
    which then ends in a secret, can watch, and steer when nobody else does."""
    port: int = 8080
    """Port to listen on."""
    allow_origin: UseAppendAction[tuple[str, ...]] = ()
    """Scheme and host under which browsers reach the page too, such as https://lab.example of a proxy; repeatable."""
    shadows: bool = True
    """Shadows in the 3-D scene; without them a browser that has no GPU draws 1.5 to 2 times as fast."""


def main(args: Args) -> None:
    check_folder("--out", args.out)
    with only_writer(args.out, "recording"):
        demonstrate(args)


def demonstrate(args: Args) -> None:
    """Shows the page until Ctrl-C."""
    cameras = dict.fromkeys(args.cameras, (args.height, args.width))
    attributes, helper = {}, ""
    if args.checkpoint is not None:
        if args.assist != "none":
            raise EnvError("--assist and --checkpoint exclude each other: one helper at a time")
        agent, task, cameras, attributes = _correcting(args)
        helper = "The policy"
    elif args.task is None:
        raise EnvError("name a --task, or a --checkpoint whose task it shall be")
    else:
        task = env_id(args.task)
        assisted_arms = () if args.assist == "none" else (args.assist,)
        agent = TeleopAgent(Demonstrator(task) if assisted_arms else None, assisted_arms)
        if assisted_arms:
            attributes, helper = {"assist": args.assist}, "The scripted expert"
    settings = {"seed": args.seed, "horizon": args.horizon, "patience": args.patience, "instruction": args.instruction}
    session = Session(task, cameras, agent, args.out, attributes=attributes, **settings)

    from scripts.pages.scene_page import ScenePage
    from scripts.pages.teleop import TeleopPage

    scene_page = ScenePage(session.env.model, args.host, args.port, "Teleoperation", args.allow_origin, args.shadows)
    try:
        page = TeleopPage(session, scene_page, helper)
        print(f"open {scene_page.url} in a browser; Ctrl-C ends, saved episodes stay", flush=True)
        session.run(page.show)
    finally:
        scene_page.close()
        print(f"{args.out}: {session.saved} episodes")


def _correcting(args: Args) -> tuple[TeleopAgent, str, dict[str, tuple[int, int]], dict[str, str]]:
    """An agent that is the policy until a person takes over, its task, cameras, and attributes for the files."""
    assert args.checkpoint is not None
    checkpoint = find_checkpoint(args.checkpoint)

    import torch

    from act.checkpoint import load_policy

    torch.set_num_threads(1)  # the page and the simulation need the other cores
    policy = load_policy(checkpoint, torch.device("cpu"), text_encoder=args.text_encoder)
    [task] = tasks_of(args.checkpoint, policy.spec, args.task)
    words = args.instruction or None
    if policy.instruction_encoder is None:
        words = None  # they are for the page and the files
    else:
        policy.instruction_encoder.check(
            [words] if words else [text for way in SEEN.get(task, ()) for text in phrasings(task, way)]
        )
    # Without ensembling: where a person gives the arms back, old chunks count no longer.
    agent = agent_from(AgentSettings(instruction=words, n_action_steps=-(-policy.chunk_size // 2)), policy, task)
    return TeleopAgent(agent), task, dict(policy.spec.cameras), {"policy": str(checkpoint)}


if __name__ == "__main__":
    run(main, Args)
