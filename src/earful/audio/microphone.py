"""The microphone, block by block."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from earful.errors import AudioError

WAITING_BLOCKS = 256  # before the microphone is found to run ahead of us for good


@contextmanager
def microphone(
    rate_hz: int, block_s: float = 0.08, device: str | None = None
) -> Iterator[Iterator[npt.NDArray[np.float32]]]:
    """Open the microphone: yields mono float32 blocks at rate_hz for as long as they are asked for.

    device: a name or a number of sounddevice's; None is the system's choice. Raises AudioError when sounddevice is not
    installed, there is no such device, or the listener falls far behind.
    """
    sounddevice = sound_library()
    waiting: queue.Queue[npt.NDArray[np.float32]] = queue.Queue(WAITING_BLOCKS)
    lost = False

    def heard(block: npt.NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        nonlocal lost
        try:
            waiting.put_nowait(block[:, 0].copy())
        except queue.Full:
            lost = True

    def blocks() -> Iterator[npt.NDArray[np.float32]]:
        while not lost:
            yield waiting.get()
        raise AudioError(f"expected to keep up with the microphone, got {WAITING_BLOCKS * block_s:.0f} s behind")

    chosen = int(device) if device is not None and device.isdigit() else device
    try:
        stream = sounddevice.InputStream(
            samplerate=rate_hz,
            blocksize=round(block_s * rate_hz),
            device=chosen,
            channels=1,
            dtype="float32",
            callback=heard,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        name = f"the microphone {device!r}" if device is not None else "a microphone"
        raise AudioError(f"expected {name} at {rate_hz} Hz, got: {str(error).splitlines()[0]}") from error
    with stream:
        yield blocks()


def microphones() -> list[str]:
    """The names of the devices that can record; empty where there is none. Raises AudioError without sounddevice."""
    sounddevice = sound_library()
    try:
        devices = sounddevice.query_devices()
    except sounddevice.PortAudioError as error:
        raise AudioError(f"expected a list of microphones, got: {error}") from error
    return [device["name"] for device in devices if device["max_input_channels"] > 0]


def sound_library() -> Any:
    """The library that reaches sound devices; raises AudioError where there is none."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: it is there, but PortAudio is not
        hint = "pip install 'earful[mic]'" if isinstance(error, ImportError) else "install PortAudio (libportaudio2)"
        raise AudioError(f"expected sounddevice to reach microphones and speakers, got: {error}: {hint}") from error
    return sounddevice
