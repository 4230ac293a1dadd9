"""From the canonical graph to quantized graphs: calibrate once, one graph for every distinct policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit.core.codec import encode
from edgekit.core.events import Event
from edgekit.core.files import digest_file, digest_json
from edgekit.core.packages import installed_version
from edgekit.core.samples import open_samples
from edgekit.core.target import Int8Policy, Precision, Target, WeightPolicy, load_target
from edgekit.errors import UsageError
from edgekit.pipeline.cache import cached_folder, partial_result
from edgekit.pipeline.job import Job

__all__ = ["calibrated", "evened_out", "policy_of", "quantized_graph", "quantized_graphs"]


_REWRITTEN = "float32.onnx"  # what calibration writes beside its result where it is of another graph


def quantized_graphs(job: Job, targets: list[Target]) -> dict[str, Path]:
    """One quantized graph for every distinct policy: policy digest -> ONNX file."""
    wanted = [p for precision in job.recipe.precisions for t in targets if (p := policy_of(t, precision))]
    policies = {digest_json(encode(policy)): policy for policy in wanted}
    observed = {key: policies[key] for key in sorted(policies) if isinstance(policies[key], Int8Policy)}
    graphs = {k: _quantize_weights(job, p) for k, p in policies.items() if isinstance(p, WeightPolicy)}
    if not observed or job.recipe.calibration is None:
        return graphs
    int8 = [p for p in observed.values() if isinstance(p, Int8Policy)]
    int8 += [wide for p in int8 if (wide := _wide_policy(job, p)) and wide not in int8]
    job, ranges = calibrated(evened_out(job, int8), int8)
    quantized = {k: _quantize(job, p, ranges) for k, p in policies.items() if isinstance(p, Int8Policy)}
    return graphs | quantized


def quantized_graph(job: Job, policy: Int8Policy) -> Path:
    """The quantized graph of one policy, as the job's recipe wants it, in the job's `work` folder."""
    wide = _wide_policy(job, policy)
    policies = [policy, *([wide] if wide else [])]
    job, ranges = calibrated(evened_out(job, policies), policies)
    return _quantize(job, policy, ranges)


def _wide_policy(job: Job, policy: Int8Policy) -> Int8Policy | None:
    """The policy of nodes that keep int16x8 in graphs of an int8 `policy`; None where none does, or can.

    Raises `UsageError` for targets that share the int8 policy and differ in this.
    """
    if "int16x8" not in job.recipe.quantization.keep.values():
        return None
    sharing = [t for t in map(load_target, job.recipe.targets) if t.int8 == policy]
    found = [t.int16x8 if "int16x8" in t.precisions else None for t in sharing]
    if any(wide != found[0] for wide in found):
        names = ", ".join(t.name for t in sharing)
        raise UsageError(
            f"{names} share their int8 graph and differ in int16x8", hint="convert for one at a time"
        )
    return found[0] if found else None


def evened_out(job: Job, policies: list[Int8Policy]) -> Job:
    """The job with the float graph that is quantized: the canonical one, its channels evened out if asked.

    A graph of the same function, equalized and smoothed as the recipe says, for all of `policies`; fully
    where it is trained from there.
    """
    options = job.recipe.quantization
    if job.recipe.qat is not None and job.recipe.qat.start == "equalized":
        options = replace(options, equalize=True, smooth=1.0)
    if not (options.equalize or options.smooth):
        return job
    job, ranges = calibrated(job, policies)
    arguments = {"model": str(job.model.path), "calibration": str(ranges), "options": encode(options)}
    label = "even out channels"

    def build(folder: Path) -> None:
        out = str(folder / "model.onnx")
        job.runner.run("edgekit.quantize.tuning:even_out_file", {**arguments, "out": out}, label=label)

    inputs = {
        "model": job.model.digest,
        "calibration": digest_file(ranges),
        "equalize": options.equalize,
        "smooth": options.smooth,
        "versions": {"numpy": installed_version("numpy")},
    }
    folder, cached = cached_folder("even-out", version=2, inputs=inputs, build=build)
    if cached:
        job.runner.on_event(Event(step=label, state="cached"))
    path = folder / "model.onnx"
    return replace(job, model=replace(job.model, path=path, digest=digest_file(path)))


def policy_of(target: Target, precision: Precision) -> Int8Policy | WeightPolicy | None:
    """The policy of a precision that the target offers; None where the float graph is lowered."""
    return target.policy(precision) if precision in target.precisions else None


def calibrated(job: Job, policies: list[Int8Policy]) -> tuple[Job, Path]:
    """The `Calibration` file of the job's samples for these policies, made once; and the job it is for.

    That is the job itself, but for a model that computes in float16, or has a spectrum whose frequencies
    were evened out: then its model is the one in float32 that was calibrated. Where graphs are quantized, ask
    with the job that `evened_out` gives.
    """
    ranges = _calibrate(job, policies)
    other = ranges.with_name(_REWRITTEN)
    if not other.is_file():
        return job, ranges
    return replace(job, model=replace(job.model, path=other, digest=digest_file(other))), ranges


def _calibrate(job: Job, policies: list[Int8Policy]) -> Path:
    options = job.recipe.calibration
    assert options is not None
    samples = open_samples(options.data, job.model.signature)
    arguments = {
        "model": str(job.model.path),
        "policies": [encode(p) for p in policies],
        "options": encode(options),
        "signature": encode(job.model.signature),
        "leave_float": job.recipe.quantization.leave_float,
    }

    inputs = {
        "model": job.model.digest,
        "samples": samples.digest,
        "policies": arguments["policies"],
        "method": options.method,
        "percentile": options.percentile,
        "leave_float": arguments["leave_float"],
        "versions": {name: installed_version(name) for name in ("numpy", "onnxruntime", "pillow")},
    }
    interrupted = partial_result("calibrate", version=5, inputs=inputs)

    def build(folder: Path) -> None:
        job.runner.run(
            "edgekit.quantize.calibrate:calibrate_file",
            {**arguments, "out": str(folder / "calibration.json"), "state": str(interrupted)},
            label=f"calibrate on {samples.count} samples",
        )

    folder, cached = cached_folder("calibrate", version=5, inputs=inputs, build=build)
    if cached:
        job.runner.on_event(Event(step=f"calibrate on {samples.count} samples", state="cached"))
    return folder / "calibration.json"


def _quantize(job: Job, policy: Int8Policy, ranges: Path) -> Path:
    calibration, options = job.recipe.calibration, job.recipe.quantization
    assert calibration is not None
    arguments = {
        "model": str(job.model.path),
        "calibration": str(ranges),
        "policy": encode(policy),
        "options": encode(options),
        "samples": encode(calibration),
        "signature": encode(job.model.signature),
        "wide": encode(_wide_policy(job, policy)),
    }
    samples = open_samples(calibration.data, job.model.signature)
    tuned = ", tuned on samples" if options.looks_at_samples(samples.count) else ""
    label = f"quantize ({policy.activation} activations, {_codes(policy)}{tuned})"

    def write(out: Path) -> None:
        job.runner.run("edgekit.quantize.tuning:quantize_file", {**arguments, "out": str(out)}, label=label)

    if not tuned:
        out = job.work / f"qdq-{digest_json([encode(policy), encode(options)])[:12]}.onnx"
        write(out)
        return out
    inputs = {
        "model": job.model.digest,
        "calibration": digest_file(ranges),
        "policy": arguments["policy"],
        "options": arguments["options"],
        "wide": arguments["wide"],
        "samples": samples.digest,
        "versions": {name: installed_version(name) for name in ("numpy", "onnxruntime", "pillow")},
    }
    folder, cached = cached_folder("tune", version=5, inputs=inputs, build=lambda f: write(f / "qdq.onnx"))
    if cached:
        job.runner.on_event(Event(step=label, state="cached"))
    return folder / "qdq.onnx"


def _quantize_weights(job: Job, policy: WeightPolicy) -> Path:
    out = job.work / f"weights-{digest_json(encode(policy))[:12]}.onnx"
    bits = ", ".join(f"{op} {count}" for op, count in policy.bits.items())
    job.runner.run(
        "edgekit.quantize.weights:quantize_weights_file",
        {"model": str(job.model.path), "policy": encode(policy), "out": str(out)},
        label=f"quantize weights (bits: {bits})",
    )
    return out


def _codes(policy: Int8Policy) -> str:
    pairs = " that cannot saturate" if policy.multiply_add == "saturating" else ""
    return f"{policy.weight_bits}-bit weights{pairs}"
