"""Load a Keras model file: with Keras 3, or with Keras 2 (tf_keras) when that wrote it."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.core.packages import installed_version, require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import EdgekitError, MissingPackage, UsageError
from edgekit.formats.keras_file import KerasFile, code_layers, read_keras_file
from edgekit.formats.tf_source import TfSource, check_numbers, unique_names

__all__ = ["load_keras"]

_WEIGHTS = "model.weights.h5"  # in an archive
_UNKNOWN = re.compile(r"(?:Unknown \w[\w ]*: |[Cc]ould not locate \w+ )'([^']+)'")


def load_keras(options: SourceOptions, *, keep_whole: bool) -> TfSource:
    """The model of a `.keras` or HDF5 file, in inference mode, with its own names.

    Recurrent layers are unrolled, so that no loop is left in the graph; with `keep_whole` not those that
    tf2onnx knows whole.
    A file of Keras 2 is read by Keras 2: Keras 3 refuses keys that were usual then, and computes some layers
    (hard_sigmoid) otherwise without a word. Raises `UsageError` for code that is not trusted, layers that
    nobody knows and inputs of unknown shape; `MissingPackage` for a Keras 2 that is not installed.
    """
    path = Path(options.model)
    file = read_keras_file(path)
    _require_trust(file, options)
    keras, notes = _keras_for(file)
    own = _own_objects(options)
    safe = require(f"{keras.__name__}.src.saving.serialization_lib").SafeModeScope
    try:
        with safe(not options.trust):
            load = partial(keras.models.load_model, custom_objects=own, compile=False)
            with _weights_on_disk(path, keras) as place:
                model = load(str(place), safe_mode=not options.trust)
    except Exception as err:  # Keras raises anything here, and so do the user's own layers
        traceback.print_exc()
        raise _cannot_load(err, file, options) from err
    _unroll(model, keep=(("LSTM", "GRU") if file.legacy else ("LSTM",)) if keep_whole else ())
    inputs, call = _interface(model, options)
    check_numbers(inputs, options.model)
    return TfSource(inputs=inputs, call=call, owner=model, notes=notes)


def _require_trust(file: KerasFile, options: SourceOptions) -> None:
    if options.trust:
        return
    if options.custom_objects:
        raise UsageError(
            "--custom-objects names Python code that runs while the model is loaded",
            where=options.model,
            hint="add --trust if you know what is in it",
        )
    if layers := code_layers(file):
        raise UsageError(
            f"it holds Python code, which is not run unless you trust it: {', '.join(layers[:8])}",
            where=options.model,
            hint="pass --trust if you know where the file comes from; better, replace the Lambda layer by a "
            "layer class of your own and name its file with --custom-objects",
        )


def _keras_for(file: KerasFile) -> tuple[Any, tuple[str, ...]]:
    """The Keras that reads the file, and what to note."""
    if not file.legacy:
        require("tensorflow", needed_for="reading Keras models")
        return require("keras", needed_for="reading Keras models"), (f"read by Keras {_version('keras')}",)
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # `tf.keras` in the user's own layers is then Keras 2, too
    tensorflow = require("tensorflow", needed_for="reading Keras models")
    try:
        keras = require("tf_keras")
    except MissingPackage as err:
        release = ".".join(tensorflow.__version__.split(".")[:2])
        missing = MissingPackage(
            "tf-keras",
            extra="tensorflow",
            needed_for=f"a file that Keras {file.version or '1'} wrote, which Keras 3 reads otherwise",
        )
        # Without --no-deps it brings the package `tensorflow` beside `tensorflow-cpu`.
        missing.hint = f"pip install --no-deps 'tf-keras=={release}.*'"
        raise missing from err
    written = f"Keras {file.version} wrote the file" if file.version else "the file names no Keras version"
    return keras, (f"{written}: read by Keras 2 (tf_keras {_version('tf-keras')})",)


@contextmanager
def _weights_on_disk(path: Path, keras: Any) -> Iterator[Path]:
    """What `load_model` is to be given: a folder with the files of a `.keras` archive.

    From the archive Keras reads all weights into memory before it makes the variables. The file itself where
    this Keras knows no such folders, for HDF5 files, and for archives that are not as Keras writes them
    (packed, without weights): it says what is wrong with these.
    """
    knows = hasattr(require(f"{keras.__name__}.src.saving.saving_lib"), "_load_model_from_dir")
    if not knows or not zipfile.is_zipfile(path):
        yield path
        return
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        size = sum(item.file_size for item in archive.infolist())
        if _WEIGHTS not in archive.namelist() or size > path.stat().st_size:
            yield path
            return
        archive.extractall(folder)
        yield Path(folder)


def _version(distribution: str) -> str:
    return installed_version(distribution)


def _own_objects(options: SourceOptions) -> dict[str, Any]:
    """The classes and functions that the file named by --custom-objects defines, by name."""
    if not options.custom_objects:
        return {}
    path = Path(options.custom_objects)
    if not path.is_file():
        raise UsageError("no such file", where=str(path), hint="--custom-objects takes a Python file")
    sys.path.insert(0, str(path.absolute().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError("this file cannot be imported as Python", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except EdgekitError:
        raise
    except Exception as err:  # the user's own code: whatever it raises is for them to see
        traceback.print_exc()
        raise UsageError(f"importing it raised {type(err).__name__}: {err}", where=str(path)) from err
    own = {
        name: value
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == path.stem
    }
    if not own:
        raise UsageError("it defines no class and no function", where=str(path))
    return own


def _cannot_load(err: Exception, file: KerasFile, options: SourceOptions) -> EdgekitError:
    text = " ".join(str(err).split())
    if unknown := _UNKNOWN.search(text):
        name = unknown[1]
        old = " (as Keras 2 wrote the file, import its base class from tf_keras)" if file.legacy else ""
        hint = f"name the Python file that defines it{old}: --custom-objects layers.py --trust"
        if options.custom_objects:
            hint = f"{Path(options.custom_objects).name} has to define {name!r}{old}"
        return UsageError(f"Keras knows no {name!r}, which the file uses", where=options.model, hint=hint)
    return UsageError(
        f"Keras cannot load this file: {type(err).__name__}: {text[:400]}",
        where=options.model,
        hint="load it where it was made and save it again with model.save('model.keras')",
    )


def _interface(model: Any, options: SourceOptions) -> tuple[dict[str, Any], Any]:
    """The input specs by name, and the model as a function from named to named tensors."""
    tf = require("tensorflow")
    struct = _symbolic(model, "input")
    if struct is None:
        inputs = _described(model, options)
        names = list(inputs)

        def arguments(tensors: dict[str, Any]) -> Any:
            return tensors[names[0]] if len(names) == 1 else [tensors[n] for n in names]
    else:
        flat = tf.nest.flatten(struct)
        names = unique_names(_names(struct, flat, getattr(model, "input_names", None)))
        inputs = {n: tf.TensorSpec(t.shape, t.dtype) for n, t in zip(names, flat, strict=True)}

        def arguments(tensors: dict[str, Any]) -> Any:
            return tf.nest.pack_sequence_as(struct, [tensors[n] for n in names])

    def call(tensors: dict[str, Any]) -> dict[str, Any]:
        answer = model(arguments(tensors), training=False)
        flat = tf.nest.flatten(answer)
        symbolic = _symbolic(model, "output")
        like = answer if symbolic is None else symbolic
        known = getattr(model, "output_names", None)
        outputs = unique_names(_names(like, tf.nest.flatten(like), known, kind="output"))
        return dict(zip(outputs, flat, strict=True))

    return inputs, call


def _symbolic(model: Any, side: str) -> Any:
    """`model.input` or `model.output`; None for a model that has none (a subclass, not built of tensors)."""
    for name in (side, f"{side}s"):  # a Sequential model of Keras 3 has the lists alone
        try:
            value = getattr(model, name)
        except (AttributeError, ValueError, RuntimeError):
            continue
        if isinstance(value, list) and not value:
            continue
        if value is not None:
            return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    return None


def _unroll(model: Any, *, keep: Sequence[str]) -> None:
    """Mark recurrent layers to be unrolled in the graph: the same arithmetic, one step after the other."""
    layers = list(model._flatten_layers()) if hasattr(model, "_flatten_layers") else []
    if any(getattr(layer, "mask_zero", False) or type(layer).__name__ == "Masking" for layer in layers):
        keep = ()  # a mask makes a loop of every recurrent layer
    for layer in layers:
        if hasattr(layer, "unroll") and type(layer).__name__ not in keep:
            layer.unroll = True


def _names(struct: Any, flat: list[Any], known: Any, *, kind: str = "input") -> list[str]:
    """A name for every tensor: its key in a dict, else what Keras calls it, else the layer it comes from."""
    if isinstance(struct, Mapping) and len(struct) == len(flat):
        return [str(key) for key in sorted(struct)]  # the order in which TensorFlow flattens a dict
    if known and len(known) == len(flat):
        return [str(name) for name in known]
    names = []
    for tensor in flat:
        history = getattr(tensor, "_keras_history", None)
        operation = getattr(history, "operation", None) or getattr(history, "layer", None)
        names.append(getattr(operation, "name", "") or kind)
    return names


def _described(model: Any, options: SourceOptions) -> dict[str, Any]:
    """The inputs of a subclassed model: of --shape, else those it was built with; float32."""
    tf = require("tensorflow")
    if options.shapes:
        return {name: tf.TensorSpec(shape, tf.float32) for name, shape in options.shapes.items()}
    config: dict[str, Any] = model.get_build_config() or {} if hasattr(model, "get_build_config") else {}
    built = config.get("input_shape")
    if isinstance(built, (list, tuple)) and built and all(d is None or isinstance(d, int) for d in built):
        parameters = [p for p in inspect.signature(model.call).parameters if p != "self"]
        return {parameters[0] if parameters else "input": tf.TensorSpec(list(built), tf.float32)}
    raise UsageError(
        "the model does not say what its inputs are",
        where=options.model,
        hint="give every input a name and a shape, for example --shape image=1,224,224,3",
    )
