"""Record demonstrations by teleoperation in a browser: drag the tools of both arms, or move them by keys.

    python scripts/teleop.py --task transfer_cube --out data/human
    python scripts/teleop.py --task transfer_cube --out data/human --assist left   # the expert moves the left arm
    python scripts/teleop.py --checkpoint runs/cube --out data/corrections         # correct a policy

The page is at http://127.0.0.1:8080. From another machine: ssh -L 8080:127.0.0.1:8080 HOST. The files have the format
of scripts/record.py, and a mark at every step in which a person acted. Training can combine both.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from act.agent_settings import AgentSettings
from act.run_folder import find_checkpoint
from demos.demonstrators import Demonstrator
from demos.phrases import SEEN, phrasings
from demos.session import Session
from demos.teleop import TeleopAgent
from envs import TASKS, EnvError, env_id
from scripts.acting import agent_for, tasks_of
from scripts.common import run
from scripts.outputs import check_folder, only_writer


@dataclass(frozen=True)
class Args:
    """Record demonstrations by teleoperation in a browser: drag the tools of both arms, or move them by keys."""

    out: Path
    """Folder of the episodes: episode_0.hdf5, episode_1.hdf5 and so on. Existing episodes stay."""
    task: Annotated[
        str | None, arg(help=f"The task: {', '.join(TASKS)}. Default: the task of the policy of --checkpoint.")
    ] = None
    instruction: str = ""
    """Instruction that the page shows, that the files store, and that a language-conditioned policy gets. Default: one
    from demos/tasks for the task and a variant of it, another one for each seed."""
    assist: Literal["none", "left", "right"] = "none"
    """The arm that the expert moves while you move the other one."""
    checkpoint: Path | None = None
    """Run folder or checkpoint of a policy. It acts until you drag a gizmo or press a key; then you move both arms."""
    text_encoder: str | None = None
    """module:function of the policy's text encoder, which embeds new instructions. Encoders other than minilm run only
    if you name them here."""
    cameras: tuple[str, ...] = ("top",)
    """Cameras to record. With --checkpoint: those of the policy."""
    height: int = 120
    """Image height in pixels."""
    width: int = 160
    """Image width in pixels."""
    seed: int | None = None
    """Seed of the first episode. Default: after the last one in the folder, or 20,000."""
    horizon: int = 3000
    """Maximal number of steps of an episode; 3,000 are a minute."""
    patience: int = 0
    """Steps without motion after which time stops until you move again; 0: never."""
    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this machine only. Any other, such as 0.0.0.0: whoever has the printed address,
    which then ends in a secret token, can watch, and take the controls when they are free."""
    port: int = 8080
    """Port to listen on."""
    allow_origin: UseAppendAction[tuple[str, ...]] = ()
    """Another origin of the page, such as https://lab.example of a proxy; repeatable."""
    shadows: bool = True
    """Draw shadows. Without them, a browser without a GPU draws 1.5 to 2 times as fast."""


def main(args: Args) -> None:
    check_folder("--out", args.out)
    with only_writer(args.out, "recording"):
        demonstrate(args)


def demonstrate(args: Args) -> None:
    """Serves the page until Ctrl-C."""
    cameras = dict.fromkeys(args.cameras, (args.height, args.width))
    attributes, helper = {}, ""
    if args.checkpoint is not None:
        if args.assist != "none":
            raise EnvError("--assist and --checkpoint exclude each other: one helper at a time")
        agent, task, cameras, attributes = _correcting(args)
        helper = "The policy"
    elif args.task is None:
        raise EnvError("give a --task, or a --checkpoint, whose task is then the default")
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
    """An agent that is the policy until a person takes over; its task, its cameras, and attributes for the files."""
    assert args.checkpoint is not None
    checkpoint = find_checkpoint(args.checkpoint)

    import torch

    from act.checkpoint import load_policy

    torch.set_num_threads(1)  # the page and the simulation need the other cores
    policy = load_policy(checkpoint, torch.device("cpu"), text_encoder=args.text_encoder)
    [task] = tasks_of(args.checkpoint, policy.spec, args.task)
    words = args.instruction or None
    if policy.instruction_encoder is None:
        words = None  # the instruction is for the page and the files only
    else:
        policy.instruction_encoder.check(
            [words] if words else [text for way in SEEN.get(task, ()) for text in phrasings(task, way)]
        )
    # Without ensembling: chunks from before a correction must not be averaged in.
    agent = agent_for(AgentSettings(instruction=words, n_action_steps=-(-policy.chunk_size // 2)), policy, task)
    return TeleopAgent(agent), task, dict(policy.spec.cameras), {"policy": str(checkpoint)}


if __name__ == "__main__":
    run(main, Args)
