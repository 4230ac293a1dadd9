"""The parts of a Transformers model that make an artifact each, as modules of plain tensors.

A model that does not generate is one part, "forward". An encoder-decoder gives "encoder" and "decoder",
which reads all tokens so far in every call; and with a key/value cache "encoder-with-past", which gives the
keys and values of the input once, and "decoder-with-past", which takes one token, its position and the cache
and gives the cache back with the token added. A model that is a decoder alone has the two decoders. The cache
has a fixed length: shapes stay static, and what one step gives (present.N.*) goes into the next as
past_key_values.N.*, zeros at the start.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Reason, Unsupported, UsageError, nearest
from edgekit.formats.torch_inputs import place
from edgekit.formats.transformers_inputs import Examples, encoder_examples, forward_examples

if TYPE_CHECKING:
    import torch

__all__ = ["PARTS", "Part", "make_part"]

PARTS: dict[str, tuple[str, ...]] = {
    "forward": ("forward",),
    "decoder": ("decoder", "decoder-with-past"),
    "encoder-decoder": ("encoder", "decoder", "encoder-with-past", "decoder-with-past"),
}
_CACHE_LENGTH = 128
_SIDES = ("key", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A module that takes `inputs` by keyword, and between which values integers may lie."""

    module: Any
    inputs: dict[str, torch.Tensor]
    ranges: Mapping[str, tuple[int, int]]

    def arguments(self) -> dict[str, Any]:
        """The places of the inputs in the call."""
        return {name: place(name) for name in self.inputs}


@dataclass(frozen=True, slots=True)
class _Layer:
    """The shapes of one decoder layer's cache: (batch, heads, length, size of a key or a value)."""

    own: dict[str, tuple[int, ...]]
    cross: dict[str, tuple[int, ...]]


def make_part(transformers: Any, model: Any, name: str, options: SourceOptions) -> Part:
    """The part `name` of `model` with example inputs; `options.shapes` replaces their sizes by name.

    Raises `UsageError` for a shape that names no input, `Unsupported` for a cache of another kind than keys
    and values of every token.
    """
    both = bool(getattr(model.config, "is_encoder_decoder", False))
    if name == "forward":
        examples = forward_examples(model, options)
        call = _forward(model)
    elif name == "encoder":
        examples = encoder_examples(model, options)
        call = _forward(model.get_encoder(), only="last_hidden_state")
    elif name == "decoder" and not both:
        examples = forward_examples(model, options)
        call = _forward(model, only="logits")
    else:
        examples, call = _with_decoder(transformers, model, name, options, both)
    if unknown := sorted(options.shapes.keys() - examples.tensors.keys()):
        raise UsageError(
            f"--shape names {unknown[0]!r}, which is no input of {name!r}; "
            + nearest(unknown[0], examples.tensors),
            where=options.model,
        )
    for key, shape in options.shapes.items():
        if (sizes := tuple(examples.tensors[key].shape)) != tuple(shape):
            raise UsageError(
                f"--shape {key}: got {tuple(shape)}, the other sizes make it {sizes}",
                where=options.model,
                hint="one step takes one token; the length of the decoder's cache, dimension 2, is free",
            )
    return Part(module=_module(model, call), inputs=examples.tensors, ranges=examples.ranges)


def _module(model: Any, call: Callable[..., dict[str, Any]]) -> Any:
    torch = require("torch")

    class Called(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **tensors: Any) -> Any:
            return call(**tensors)

    return Called().eval()


def _forward(model: Any, only: str = "") -> Callable[..., dict[str, Any]]:
    known = inspect.signature(model.forward).parameters
    fixed = {"use_cache": False} if "use_cache" in known else {}

    def call(**tensors: Any) -> dict[str, Any]:
        answer = model(**tensors, **fixed, return_dict=True)
        return {only: answer[only]} if only else dict(answer)

    return call


def _with_decoder(
    transformers: Any, model: Any, name: str, options: SourceOptions, both: bool
) -> tuple[Examples, Callable[..., dict[str, Any]]]:
    if not both:
        layers = _layers(model, lambda tokens: {"input_ids": tokens})
        return _step_examples(model, layers, options, "input_ids", {}), _step(
            transformers, model, layers, "input_ids", None
        )
    torch = require("torch")
    before = encoder_examples(model, _of_encoder(model, name, options))
    with torch.no_grad():
        hidden = model.get_encoder()(**before.tensors, return_dict=True).last_hidden_state
    mask = before.tensors.get("attention_mask")
    given = {} if mask is None else {"attention_mask": mask}
    wrapped = transformers.modeling_outputs.BaseModelOutput
    layers = _layers(
        model,
        lambda t: {"encoder_outputs": wrapped(last_hidden_state=hidden), "decoder_input_ids": t, **given},
    )
    if name == "encoder-with-past":
        return before, _crossed(transformers, model, layers)
    masks = {} if mask is None else {"encoder_attention_mask": mask}
    if name == "decoder-with-past":
        examples = _step_examples(model, layers, options, "decoder_input_ids", masks)
        return examples, _step(transformers, model, layers, "decoder_input_ids", tuple(hidden.shape))
    examples = Examples()
    longest = int(getattr(model.config, "max_position_embeddings", None) or _CACHE_LENGTH)
    examples.tokens("decoder_input_ids", _decoder_vocabulary(model), options, longest)
    examples.tensors["encoder_hidden_states"] = hidden.clone()
    examples.tensors.update(masks)

    def decode(**tensors: Any) -> dict[str, Any]:
        answer = model(
            encoder_outputs=wrapped(last_hidden_state=tensors["encoder_hidden_states"]),
            decoder_input_ids=tensors["decoder_input_ids"],
            **({"attention_mask": tensors["encoder_attention_mask"]} if masks else {}),
            use_cache=False,
            return_dict=True,
        )
        return {"logits": answer.logits}

    return examples, decode


def _of_encoder(model: Any, name: str, options: SourceOptions) -> SourceOptions:
    """The options for the encoder: a decoder's own inputs say how many tokens it reads of the encoder."""
    if name == "encoder-with-past":
        return options
    steps = {"encoder_attention_mask": 1, "encoder_hidden_states": 1}
    lengths = [shape[steps[key]] for key, shape in options.shapes.items() if key in steps and len(shape) > 1]
    lengths += [shape[2] for key, shape in options.shapes.items() if ".encoder." in key and len(shape) == 4]
    main = str(getattr(model.get_encoder(), "main_input_name", ""))
    sized: dict[str, tuple[int, ...]] = {main: (1, lengths[0])} if lengths and main == "input_ids" else {}
    return replace(options, shapes=sized)


def _decoder_vocabulary(model: Any) -> int:
    own = getattr(model.config, "decoder", model.config)
    return int(getattr(own, "vocab_size", 0) or model.get_output_embeddings().weight.shape[0])


def _layers(model: Any, inputs: Callable[[Any], dict[str, Any]]) -> list[_Layer]:
    """The cache of every decoder layer, found by one call with one token."""
    torch = require("torch")
    with torch.no_grad():
        tokens = torch.zeros((1, 1), dtype=torch.int64)
        cache = model(**inputs(tokens), use_cache=True, return_dict=True).past_key_values
    own = getattr(cache, "self_attention_cache", cache)
    cross = getattr(cache, "cross_attention_cache", None)
    odd = [
        f"{i}: {type(one).__name__}"
        for i, one in enumerate(own.layers)
        if type(one).__name__ != "DynamicLayer"
    ]
    if odd:
        raise Unsupported(
            "the cache does not hold the keys and values of every token",
            reasons=[Reason(why=f"layer {one}") for one in odd[:12]],
            hint="--signature decoder computes without a cache",
        )
    others = cross.layers if cross is not None else [None] * len(own.layers)
    return [_Layer(own=_shapes(a), cross=_shapes(b) if b is not None else {})
            for a, b in zip(own.layers, others, strict=True)]  # fmt: skip


def _shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    return {"key": tuple(layer.keys.shape), "value": tuple(layer.values.shape)}


def _step_examples(
    model: Any, layers: list[_Layer], options: SourceOptions, tokens: str, masks: Mapping[str, Any]
) -> Examples:
    """One token, its position, the caches. A --shape of any decoder cache sets the length of all."""
    torch = require("torch")
    generator = torch.Generator().manual_seed(2)
    named = _names(layers)
    asked = [
        shape[2] for name, shape in options.shapes.items() if named.get(name) == "own" and len(shape) == 4
    ]
    longest = getattr(model.config, "max_position_embeddings", None) or _CACHE_LENGTH
    length = asked[0] if asked else min(_CACHE_LENGTH, int(longest))
    examples = Examples()
    vocabulary = _decoder_vocabulary(model)
    examples.tensors[tokens] = torch.randint(0, vocabulary, (1, 1), generator=generator)
    examples.ranges[tokens] = (0, vocabulary - 1)
    examples.tensors["position"] = torch.tensor([[length // 2]])
    examples.ranges["position"] = (0, length - 1)
    examples.tensors.update(masks)
    for name, kind in named.items():
        _, number, *_, side = name.split(".")
        layer = layers[int(number)]
        shape = list((layer.own if kind == "own" else layer.cross)[side])
        if kind == "own":
            shape[2] = length
        examples.tensors[name] = torch.randn(shape, generator=generator)
    return examples


def _names(layers: list[_Layer]) -> dict[str, str]:
    """The names of the caches and whose they are: the decoder's "own", or "cross" for the encoder's."""
    crossed = bool(layers[0].cross)
    names = {}
    for number in range(len(layers)):
        for side in _SIDES:
            names[f"past_key_values.{number}.{'decoder.' if crossed else ''}{side}"] = "own"
        for side in _SIDES if crossed else ():
            names[f"past_key_values.{number}.encoder.{side}"] = "cross"
    return names


def _crossed(transformers: Any, model: Any, layers: list[_Layer]) -> Callable[..., dict[str, Any]]:
    """What "encoder-with-past" computes: the keys and values that every decoder layer reads of the input."""
    torch = require("torch")
    wrapped = transformers.modeling_outputs.BaseModelOutput

    def call(**tensors: Any) -> dict[str, Any]:
        hidden = model.get_encoder()(**tensors, return_dict=True).last_hidden_state
        tokens = torch.zeros((hidden.shape[0], 1), dtype=torch.int64)
        outputs = wrapped(last_hidden_state=hidden)
        cache = model(
            encoder_outputs=outputs, decoder_input_ids=tokens, use_cache=True, return_dict=True
        ).past_key_values.cross_attention_cache
        answer = {}
        for number in range(len(layers)):
            for side, tensor in zip(
                _SIDES, (cache.layers[number].keys, cache.layers[number].values), strict=True
            ):
                answer[f"present.{number}.encoder.{side}"] = tensor
        return answer

    return call


def _step(
    transformers: Any, model: Any, layers: list[_Layer], tokens: str, hidden: tuple[int, ...] | None
) -> Callable[..., dict[str, Any]]:
    """What "decoder-with-past" computes; `hidden` is the shape of the encoder's answer, which is not read."""
    torch = require("torch")
    cache_utils = transformers.cache_utils

    class Given(cache_utils.StaticLayer):  # type: ignore[misc, name-defined]
        """A cache of fixed length that is an input, and does not change in place: it is replaced."""

        def __init__(self, keys: Any, values: Any, position: Any) -> None:
            super().__init__(max_cache_len=keys.shape[2])
            self.keys, self.values, self.is_initialized = keys, values, True
            self.cumulative_length = position

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            here = (torch.arange(self.max_cache_len) == self.cumulative_length)[:, None]
            self.keys = torch.where(here, key_states, self.keys)
            self.values = torch.where(here, value_states, self.values)
            return self.keys, self.values

    def known(keys: Any, values: Any) -> Any:
        layer = cache_utils.DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return layer

    def pair(tensors: Mapping[str, Any], stem: str) -> tuple[Any, Any]:
        return tensors[f"{stem}.key"], tensors[f"{stem}.value"]

    middle = "" if hidden is None else ".decoder"

    def call(**tensors: Any) -> dict[str, Any]:
        numbers = range(len(layers))
        own = cache_utils.Cache(layers=[
            Given(*pair(tensors, f"past_key_values.{n}{middle}"), tensors["position"][0]) for n in numbers
        ])  # fmt: skip
        given: dict[str, Any] = {tokens: tensors[tokens], "past_key_values": own}
        if hidden is not None:
            cross = cache_utils.Cache(layers=[
                known(*pair(tensors, f"past_key_values.{n}.encoder")) for n in numbers
            ])  # fmt: skip
            given["past_key_values"] = cache_utils.EncoderDecoderCache(own, cross)
            length = cross.layers[0].keys.shape[2]
            unread = torch.zeros((hidden[0], length, hidden[2]))
            given["encoder_outputs"] = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=unread)
            if "encoder_attention_mask" in tensors:
                given["attention_mask"] = tensors["encoder_attention_mask"]
        answer = {"logits": model(**given, use_cache=True, return_dict=True).logits}
        for n in numbers:
            answer[f"present.{n}{middle}.key"] = own.layers[n].keys
            answer[f"present.{n}{middle}.value"] = own.layers[n].values
        return answer

    return call
