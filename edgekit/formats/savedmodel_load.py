"""Load one signature of a TensorFlow SavedModel."""

from __future__ import annotations

from typing import Any

from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError, nearest
from edgekit.formats.tf_source import TfSource, check_numbers

__all__ = ["load_saved_model"]

_NOT_SERVED = ("__saved_model_init_op", "__saved_model_train_op")


def load_saved_model(options: SourceOptions) -> TfSource:
    """The signature that `options.signature` names, or the only one there is (under whatever names).

    Inputs and outputs carry the names of the signature. Raises `UsageError` for a folder that cannot be
    loaded, has no signature, or has several while none is chosen.
    """
    tf = require("tensorflow", needed_for="reading SavedModels")
    try:
        loaded = tf.saved_model.load(options.model)
    except (OSError, ValueError, KeyError, AssertionError, RuntimeError, tf.errors.OpError) as err:
        what = " ".join(str(err).split())[:300]
        raise UsageError(
            f"TensorFlow cannot load this SavedModel: {what}",
            where=options.model,
            hint="the folder needs saved_model.pb and variables/ as they were written",
        ) from err
    signatures = {name: f for name, f in loaded.signatures.items() if name not in _NOT_SERVED}
    function = _chosen(signatures, options)
    arguments: dict[str, Any] = function.structured_input_signature[1]
    check_numbers(arguments, options.model)
    outputs = sorted(function.structured_outputs)  # the file's own order differs from process to process

    def call(tensors: dict[str, Any]) -> dict[str, Any]:
        answer = function(**tensors)
        return {name: answer[name] for name in outputs}

    return TfSource(inputs=dict(sorted(arguments.items())), call=call, owner=loaded)


def _chosen(signatures: dict[str, Any], options: SourceOptions) -> Any:
    listed = ", ".join(map(repr, sorted(signatures)))
    if options.signature:
        if options.signature not in signatures:
            near = nearest(options.signature, signatures)
            raise UsageError(f"it has no signature {options.signature!r}; {near}", where=options.model)
        return signatures[options.signature]
    if not signatures:
        raise UsageError(
            "the SavedModel has no signature, so nothing says what its inputs and outputs are",
            where=options.model,
            hint="save it with tf.saved_model.save(module, folder, signatures=module.call."
            "get_concrete_function(tf.TensorSpec(…))), or model.export(folder) in Keras",
        )
    first, *others = (signatures[name] for name in sorted(signatures, reverse=True))
    if not all(_alike(first, other) for other in others):
        raise UsageError(
            f"the SavedModel has {len(signatures)} signatures: {listed}",
            where=options.model,
            hint=f"choose one: --signature {sorted(signatures)[0]}",
        )
    return first


def _alike(first: Any, second: Any) -> bool:
    """Whether two signatures are one function under two names, as Keras 3 exports "serve"."""
    sides = [
        (
            function.structured_input_signature,
            function.structured_outputs,
            [_plain(node) for node in function.graph.as_graph_def().node],
            [id(captured) for captured in function.captured_inputs],
        )
        for function in (first, second)
    ]
    return bool(sides[0] == sides[1])


def _plain(node: Any) -> bytes:
    """A node without TensorFlow's private attributes, such as the serial number of its gradient."""
    for name in [name for name in node.attr if name.startswith("_")]:
        del node.attr[name]
    text: bytes = node.SerializeToString(deterministic=True)
    return text
