"""A page that shows a simulated scene in 3-D: a viser server with mjviser's scene."""

import copy
import re
import socket
import string
from collections.abc import Iterable, Mapping

import numpy as np
import viser
from mjviser import ViserMujocoScene

from envs import EnvError
from envs.gl import mujoco
from scripts.pages.request_guard import EVERYWHERE, TOKEN, RequestGuard, serve

EYE, LOOK_AT = (0.0, -0.2, 0.75), (0.0, 0.52, 0.1)  # m: the view of a person in front of the table
PICTURE_WIDTH = 320  # minimal width of an image, pixels
PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def as_text(words: str) -> str:
    """Escapes text from a file for Markdown, so that HTML in it is shown and does not run."""
    return PUNCTUATION.sub(r"\\\g<0>", " ".join(words.split()))


class ScenePage:
    """A server whose page shows a model; `server.gui` and `server.scene` take more.

    Args:
        model: whose bodies are shown. None: a page without a scene.
        host: address to listen on. 127.0.0.1 accepts only this machine, any other whoever knows the token in `url`.
        port: to listen on; 0 picks a free one.
        title: of the page's panel.
        origins: more origins of the page, such as https://lab.example of a proxy.
        shadows: draws shadows: a third to a half of the work of a browser without a GPU.

    Raises:
        EnvError: the port is taken, or one of `origins` is not an origin.
    """

    def __init__(
        self,
        model: mujoco.MjModel | None,  # pyright: ignore
        host: str,
        port: int,
        title: str,
        origins: Iterable[str] = (),
        shadows: bool = True,
    ):
        with socket.socket() as probe:  # viser would take another port without a message
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise EnvError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
            port = probe.getsockname()[1]
        guard = RequestGuard(host, port, origins)
        self.server = serve(guard, host, port, title)
        name = socket.gethostname() if host in EVERYWHERE else host
        self.url = f"http://{name}:{self.server.get_port()}" + (f"/?{TOKEN}={guard.token}" if guard.token else "")
        self.server.gui.configure_theme(control_width="large", show_share_button=False)
        self.server.gui.main_panel.dock_right()
        self.server.initial_camera.position, self.server.initial_camera.look_at = EYE, LOOK_AT
        self._scene: ViserMujocoScene | None = None
        if model is not None:
            # A copy, because mjviser changes the appearance of the model.
            self._scene = ViserMujocoScene(self.server, copy.deepcopy(model), num_envs=1)
            self._scene.camera_tracking_enabled = False  # the table stands still
            self.server.scene.configure_default_lights(cast_shadow=shadows)

    def show(self, data: mujoco.MjData) -> None:  # pyright: ignore
        """Shows the bodies at their poses in `data`."""
        if self._scene is not None:
            self._scene.update_from_mjdata(data)

    def close(self) -> None:
        self.server.stop()


class Pictures:
    """The images of cameras in the panel, enlarged."""

    def __init__(self, server: viser.ViserServer, cameras: Mapping[str, tuple[int, int]]):
        blank = {name: np.zeros((*size, 3), np.uint8) for name, size in cameras.items()}
        self._images = {
            name: server.gui.add_image(_enlarged(picture), label=name, format="jpeg", jpeg_quality=90)
            for name, picture in blank.items()
        }

    def show(self, name: str, picture: np.ndarray) -> None:
        """Shows an image, (H, W, 3) uint8 RGB."""
        self._images[name].image = _enlarged(picture)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    times = -(-PICTURE_WIDTH // picture.shape[1])
    return picture.repeat(times, axis=0).repeat(times, axis=1)
