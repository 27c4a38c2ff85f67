"""From the contract's method messages to the explainers' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from gloss import v1 as pb
from ml import spec
from ml.errors import InputError

E = TypeVar("E")
T = TypeVar("T")

SURROGATES = {
    pb.SURROGATE_UNSPECIFIED: spec.SurrogateKind.RIDGE,
    pb.SURROGATE_RIDGE: spec.SurrogateKind.RIDGE,
    pb.SURROGATE_LASSO: spec.SurrogateKind.LASSO,
    pb.SURROGATE_DECISION_TREE: spec.SurrogateKind.DECISION_TREE,
}


def to_method(message: pb.ExplanationSpec) -> spec.Method:
    """The method of a request's spec, with the contract's defaults filled in.

    Raises:
        InputError: none is set, or one of its fields has a value that is not allowed.
    """
    kind = message.WhichOneof("method")
    if kind is None:
        raise InputError("method", f"set exactly one of {', '.join(_METHODS)}")
    return _METHODS[kind](message)


def known(path: str, meanings: Mapping[E, T], number: E) -> T:
    """What an enum's number means; `path` is where it sits in the request.

    Raises:
        InputError: it is not known here. Enums are open on the wire: a client of a newer contract may send any number.
    """
    if number not in meanings:
        raise InputError(path, f"{number} is not a value that this version knows")
    return meanings[number]


def _occlusion(message: pb.ExplanationSpec) -> spec.Occlusion:
    occlusion = message.occlusion
    return spec.Occlusion(
        window=occlusion.window if occlusion.HasField("window") else 1,
        stride=occlusion.stride if occlusion.HasField("stride") else 1,
    )


def _lime(message: pb.ExplanationSpec) -> spec.Lime:
    lime = message.lime
    return spec.Lime(
        surrogate=known("lime.surrogate", SURROGATES, lime.surrogate),
        alpha=lime.alpha if lime.HasField("alpha") else None,
        kernel_width=lime.kernel_width if lime.HasField("kernel_width") else 25.0,
        max_depth=lime.max_depth if lime.HasField("max_depth") else 3,
    )


def _integrated_gradients(message: pb.ExplanationSpec) -> spec.IntegratedGradients:
    gradients = message.integrated_gradients
    return spec.IntegratedGradients(gradients.steps if gradients.HasField("steps") else 50)


def _context_attribution(message: pb.ExplanationSpec) -> spec.ContextAttribution:
    context = message.context_attribution
    return spec.ContextAttribution(context.alpha if context.HasField("alpha") else 0.01)


def _global_surrogate(message: pb.ExplanationSpec) -> spec.GlobalSurrogate:
    asked = message.global_surrogate
    return spec.GlobalSurrogate(
        prompts=tuple(asked.prompts),
        surrogate=known("global_surrogate.surrogate", SURROGATES, asked.surrogate),
        held_out=asked.held_out if asked.HasField("held_out") else 0.2,
        max_depth=asked.max_depth if asked.HasField("max_depth") else 3,
    )


def _bias_probe(message: pb.ExplanationSpec) -> spec.BiasProbe:
    groups = tuple(spec.SwapSet(group.label, tuple(group.words)) for group in message.bias_probe.groups)
    return spec.BiasProbe(groups, tuple(message.bias_probe.templates))


_METHODS: dict[str, Callable[[pb.ExplanationSpec], spec.Method]] = {
    "occlusion": _occlusion,
    "lime": _lime,
    "kernel_shap": lambda _: spec.KernelShap(),
    "shapley_permutation": lambda _: spec.ShapleyPermutation(),
    "input_times_gradient": lambda _: spec.InputTimesGradient(),
    "integrated_gradients": _integrated_gradients,
    "attention_rollout": lambda _: spec.AttentionRollout(),
    "value_zeroing": lambda _: spec.ValueZeroing(),
    "context_attribution": _context_attribution,
    "interactions": lambda _: spec.Interactions(),
    "global_surrogate": _global_surrogate,
    "bias_probe": _bias_probe,
}
"""By the contract's field."""
