"""Sensible example inputs of a Transformers model, from its configuration alone."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["Examples", "encoder_examples", "forward_examples"]

_TOKENS = 128
_SECOND = 16_000  # samples of speech


@dataclass(slots=True)
class Examples:
    """Example tensors by name, and between which values integers may lie."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def tokens(self, name: str, vocabulary: int, options: SourceOptions, longest: int = _TOKENS) -> None:
        """Token ids within the vocabulary: `options.shapes`, else 1 sequence of at most 128."""
        torch = require("torch")
        shape = tuple(options.shapes.get(name, (1, min(_TOKENS, longest))))
        generator = torch.Generator().manual_seed(3)
        self.tensors[name] = torch.randint(0, vocabulary, shape, generator=generator)
        self.ranges[name] = (0, vocabulary - 1)

    def mask(self, name: str, like: str, options: SourceOptions) -> None:
        """1 for the tokens that count, 0 for the last quarter: padding."""
        torch = require("torch")
        shape = tuple(options.shapes.get(name, self.tensors[like].shape))
        mask = torch.ones(shape, dtype=torch.int64)
        mask[..., shape[-1] - shape[-1] // 4 :] = 0
        self.tensors[name] = mask
        self.ranges[name] = (0, 1)

    def floats(self, name: str, shape: tuple[int, ...], options: SourceOptions) -> None:
        """Standard normal values."""
        torch = require("torch")
        generator = torch.Generator().manual_seed(4)
        self.tensors[name] = torch.randn(tuple(options.shapes.get(name, shape)), generator=generator)


def forward_examples(model: Any, options: SourceOptions) -> Examples:
    """What `model.forward` takes: tokens with their mask and segments, an image, or sound.

    Sizes come from `options.shapes` or the configuration: 128 tokens at most, the configured image, a second
    of sound. Raises `UsageError` when the configuration does not say.
    """
    known = inspect.signature(model.forward).parameters
    examples = Examples()
    config = model.config
    text = getattr(config, "text_config", config)
    main = str(getattr(model, "main_input_name", ""))
    if main == "input_ids" or ("input_ids" in known and "pixel_values" in known):
        longest = getattr(text, "max_position_embeddings", None) or _TOKENS
        examples.tokens("input_ids", int(text.vocab_size), options, int(longest))
        if "attention_mask" in known:
            examples.mask("attention_mask", "input_ids", options)
        kinds = int(getattr(text, "type_vocab_size", 0) or 0)
        if "token_type_ids" in known and kinds > 1:
            shape = tuple(examples.tensors["input_ids"].shape)
            segments = require("torch").zeros(shape, dtype=require("torch").int64)
            segments[..., shape[-1] // 2 :] = 1
            examples.tensors["token_type_ids"] = segments
            examples.ranges["token_type_ids"] = (0, kinds - 1)
    if "pixel_values" in known:
        examples.floats("pixel_values", _image(getattr(config, "vision_config", config), options), options)
    if main == "input_values":
        examples.floats("input_values", (1, _SECOND), options)
    if main == "input_features":
        examples.floats("input_features", _spectrum(config, options), options)
    if not examples.tensors:
        raise UsageError(
            f"what {type(model).__name__} takes ({main or 'its inputs'}) is not known to edgekit",
            where=options.model,
            hint="give edgekit.convert the model itself, with example_inputs",
        )
    return examples


def encoder_examples(model: Any, options: SourceOptions) -> Examples:
    """What the encoder of an encoder-decoder takes."""
    return forward_examples(model.get_encoder(), options)


def _image(config: Any, options: SourceOptions) -> tuple[int, ...]:
    size = getattr(config, "image_size", None)
    if size is None:
        return _given("pixel_values", options, lacks="image_size", example="1,3,224,224")
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return 1, int(getattr(config, "num_channels", 3)), height, width


def _spectrum(config: Any, options: SourceOptions) -> tuple[int, ...]:
    bands, steps = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    if bands is None or steps is None:
        return _given("input_features", options, lacks="size of input_features", example="1,80,3000")
    return 1, int(bands), 2 * int(steps)  # Whisper halves the steps


def _given(name: str, options: SourceOptions, *, lacks: str, example: str) -> tuple[int, ...]:
    """The shape that `options` give an input whose size the configuration lacks."""
    if name not in options.shapes:
        raise UsageError(
            f"config.json says no {lacks}", where=options.model, hint=f"give --shape {name}={example}"
        )
    return tuple(options.shapes[name])
