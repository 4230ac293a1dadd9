"""Speech to judge a voice detector by: sentences spoken by espeak-ng, with pauses, in noise of three kinds.

    python speech.py OUT.npz

Runs in an environment that has espeakng-loader. OUT holds one float32 array at 16 kHz for each clip.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

RATE, SPOKEN_RATE = 16000, 22050
VOICES = ("en-us", "en-gb-x-rp", "en-us+f3", "en-gb-scotland+m3", "de", "fr", "es", "en-us+f2")
SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Please turn off the lights in the kitchen and lock the front door.",
    "Seventeen ships sailed slowly past the island before sunset.",
    "A small device can listen all day on one battery if it sleeps well.",
)
_RETRIEVE, _SPEED, _PITCH = 2, 1, 3  # AUDIO_OUTPUT_SYNCHRONOUS, espeakRATE, espeakPITCH of speak_lib.h


def main(out: str) -> None:
    """Write the clips; the same ones every time."""
    random, clips = np.random.default_rng(0), {}
    speaker = Speaker()
    for voice in VOICES:
        for sentence in SENTENCES:
            number = len(clips)
            spoken = speaker.say(sentence, voice, speed=140 + 10 * (number % 5), pitch=30 + 10 * (number % 5))
            clips[f"{number:02d}"] = recorded(spoken, number, random)
    np.savez(out, **clips)


class Speaker:
    """espeak-ng through its C interface."""

    def __init__(self) -> None:
        spec = find_spec("espeakng_loader")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("espeakng-loader is not installed")
        folder = Path(spec.submodule_search_locations[0])
        self.library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        self.parts: list[np.ndarray] = []
        self.library.espeak_Initialize(_RETRIEVE, 0, str(folder).encode(), 0)
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self.callback = callback(self._heard)
        self.library.espeak_SetSynthCallback(self.callback)

    def _heard(self, wave: ctypes._Pointer[ctypes.c_short], count: int, _: int) -> int:
        if wave and count:
            self.parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, *, speed: int, pitch: int) -> np.ndarray:
        """Float32 in [-1, 1] at 16 kHz."""
        self.parts.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice}")
        self.library.espeak_SetParameter(_SPEED, speed, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        content = text.encode()
        self.library.espeak_Synth(content, len(content) + 1, 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        wave = np.concatenate(self.parts).astype(np.float32) / 32768
        spectrum = np.fft.rfft(wave)
        length = wave.size * RATE // SPOKEN_RATE
        return (np.fft.irfft(spectrum[: length // 2 + 1], length) * length / wave.size).astype(np.float32)


def recorded(spoken: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """The sentence at some distance (-3 to -26 dB), seconds of pause around it, in noise, hum or rumble."""
    voice = spoken / np.abs(spoken).max() * 10 ** (-random.uniform(3, 26) / 20)
    clip = np.zeros(int(voice.size + RATE * random.uniform(2, 4)), np.float32)
    start = int(RATE * random.uniform(0.5, 1.5))
    clip[start : start + voice.size] = voice
    noise = random.standard_normal(clip.size)
    if number % 3 == 1:
        rumble = np.cumsum(noise)
        rumble -= np.convolve(rumble, np.ones(400) / 400, "same")
        noise = rumble / rumble.std()
    elif number % 3 == 2:
        time = np.arange(clip.size) / RATE
        hum = sum(np.sin(2 * np.pi * f * time + random.uniform(0, 6)) for f in (50, 100, 150, 440))
        noise = hum / 2 + 0.3 * noise
    loudness = voice.std() / 10 ** (random.choice([8, 15, 25, 40]) / 20)
    return np.clip(clip + loudness * noise, -1, 1).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
