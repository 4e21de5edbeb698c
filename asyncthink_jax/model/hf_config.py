"""The families of models, and the `config.json` of Hugging Face models, to and from `ModelConfig`.

A feature that would change the results and that the transformer doesn't have is refused: biases, sliding windows, other
rotary embeddings or activations, quantization.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from asyncthink_jax import stated
from asyncthink_jax.model.model_config import ModelConfig, RopeScaling
from asyncthink_jax.model.tensors import WeightsError


@dataclasses.dataclass(frozen=True)
class Family:
    """What the models of one `model_type` have in common.

    Attributes:
        architecture: its name in `architectures`.
        fields: of ModelConfig, where it differs from the defaults; no two families have the same ones.
        off: keys of its config.json for features that the transformer hasn't, which are written as turned off.
        required: keys of its config.json that have no default here.
        gguf_pairs: GGUF files have the rows of each head that is rotated pair by pair (0, H/2, 1, H/2 + 1, ..).
    """

    architecture: str
    fields: Mapping[str, Any]
    off: Mapping[str, Any]
    required: tuple[str, ...] = ()
    gguf_pairs: bool = False


# By `model_type`, which is `general.architecture` in GGUF files.
FAMILIES = {
    "llama": Family("LlamaForCausalLM", {"qk_norm": False}, {"mlp_bias": False}, gguf_pairs=True),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        {"qk_norm": True},
        {"use_sliding_window": False, "sliding_window": None},
        required=("num_key_value_heads", "head_dim"),
    ),
}
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_REQUIRED = object()

# Keys for features that the transformer doesn't have, and the values that turn them off.
_OFF: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "hidden_act": ("silu", None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}


def from_hf(data: Any, where: str) -> ModelConfig:
    """The sizes that a parsed config.json states. `where` names the file in errors.

    Raises WeightsError for an unknown family, a feature that the transformer doesn't have, and a missing or wrong
    field.
    """
    if not isinstance(data, dict):
        raise WeightsError(f"{where}: not the config of a model")
    family = data.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise WeightsError(f"{where}: model_type {family!r} is not one of {', '.join(FAMILIES)}")
    for key, values in _OFF.items():
        if data.get(key) not in values:
            raise WeightsError(f"{where}: {key} {data[key]!r} is not supported, only {values[0]!r}")
    kinds = data.get("layer_types") or []
    if not isinstance(kinds, list):
        raise WeightsError(f"{where}: layer_types {kinds!r} is no list")
    windows = any(kind != "full_attention" for kind in kinds)
    # Qwen3 states a window beside `use_sliding_window: false`, which turns it off.
    if windows or (data.get("sliding_window") is not None and "use_sliding_window" not in data):
        raise WeightsError(f"{where}: sliding-window attention is not supported, only full attention")

    required = FAMILIES[family].required

    def field(key: str, kind: type, default: Any = _REQUIRED) -> Any:
        return _field(data, key, kind, where, _REQUIRED if key in required else default)

    width, heads = field("hidden_size", int), field("num_attention_heads", int)
    if "head_dim" not in required and data.get("head_dim") is None and width % heads:
        raise WeightsError(f"{where}: num_attention_heads {heads} doesn't divide hidden_size {width}")
    theta, scaling = _rope(data, where)
    return ModelConfig(
        vocab_size=field("vocab_size", int),
        layers=field("num_hidden_layers", int),
        width=width,
        heads=heads,
        kv_heads=field("num_key_value_heads", int, heads),
        head_dim=field("head_dim", int, width // heads),
        mlp_width=field("intermediate_size", int),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=field("rms_norm_eps", float, 1e-6),
        tied_embeddings=field("tie_word_embeddings", bool, False),
        **FAMILIES[family].fields,
    )


def _rope(data: dict[str, Any], where: str) -> tuple[float, RopeScaling]:
    """Base and scaling of the rotary embedding. Version 5 of transformers keeps both in `rope_parameters`.

    If an older `rope_scaling` stands beside it, `rope_scaling` counts.
    """
    rope = data.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise WeightsError(f"{where}: rope_parameters {rope!r} is not a section")
    if kinds := [name for name, value in rope.items() if isinstance(value, dict)]:
        raise WeightsError(f"{where}: rope_parameters of {', '.join(kinds)} are not supported, only one for all layers")
    if scaling := data.get("rope_scaling"):
        if not isinstance(scaling, dict):
            raise WeightsError(f"{where}: rope_scaling {scaling!r} is not a section")
        rope = {name: value for name, value in rope.items() if name == "rope_theta"} | scaling
    theta = _field(rope if "rope_theta" in rope else data, "rope_theta", float, where, 1e4)
    if rope.get("partial_rotary_factor") not in (1, None):
        raise WeightsError(f"{where}: partial_rotary_factor {rope['partial_rotary_factor']!r} is not supported, only 1")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, RopeScaling()
    if kind != "llama3":
        raise WeightsError(f"{where}: rope type {kind!r} is not supported, only 'default' and 'llama3'")
    scaling = RopeScaling(
        factor=_field(rope, "factor", float, where),
        low_frequency_factor=_field(rope, "low_freq_factor", float, where),
        high_frequency_factor=_field(rope, "high_freq_factor", float, where),
        original_context=_field(rope, "original_max_position_embeddings", int, where),
    )
    if scaling.low_frequency_factor >= scaling.high_frequency_factor:
        raise WeightsError(f"{where}: low_freq_factor must be below high_freq_factor")
    return theta, scaling


def _field(data: dict[str, Any], key: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    value = data.get(key)
    if value is None and default is not _REQUIRED:
        return default
    if value is None:
        raise WeightsError(f"{where}: {key} is missing")
    what = f"{where}: {key}"
    try:
        return {int: lambda: stated.whole(value, what, 1), float: lambda: stated.positive(value, what)}.get(
            kind, lambda: stated.flag(value, what)
        )()
    except ValueError as error:
        raise WeightsError(str(error)) from None


def context(data: dict[str, Any], where: str) -> int | None:
    """Tokens that the model was made for; None if its config.json doesn't state them. Raises WeightsError."""
    return _field(data, "max_position_embeddings", int, where, None)


def special_tokens(data: dict[str, Any], where: str, vocabulary: int) -> dict[str, Any]:
    """`SPECIAL_TOKENS` as a config.json has them, lists as lists, without ids that are outside of the vocabulary."""
    found: dict[str, Any] = {}
    for key in SPECIAL_TOKENS:
        try:
            ids = stated.token_ids(data.get(key), f"{where}: {key}", vocabulary)
        except ValueError as error:
            raise WeightsError(str(error)) from None
        if ids:
            found[key] = ids if isinstance(data[key], list) else ids[0]
    return found


def _family(config: ModelConfig) -> tuple[str, Family]:
    """The family that a model is of, by the fields in which families differ; one that names none has its default."""
    differing = {field for family in FAMILIES.values() for field in family.fields}

    def has(family: Family, field: str) -> bool:
        return getattr(config, field) == family.fields.get(field, getattr(ModelConfig, field))

    return next((name, one) for name, one in FAMILIES.items() if all(has(one, field) for field in differing))


def to_hf(config: ModelConfig, dtype: str, context: int, special_tokens: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a model, in keys that versions 4 and 5 of transformers both read."""
    scaling = config.rope_scaling
    model_type, family = _family(config)
    llama3 = {
        "rope_type": "llama3",
        "factor": float(scaling.factor),
        "low_freq_factor": float(scaling.low_frequency_factor),
        "high_freq_factor": float(scaling.high_frequency_factor),
        "original_max_position_embeddings": scaling.original_context,
    }
    data = {
        "architectures": [family.architecture],
        # The version whose keys these are. Without it, transformers takes the tokenizer beside it for a broken one.
        "transformers_version": "4.51.0",
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": context,
        "rms_norm_eps": float(config.norm_eps),
        "rope_theta": float(config.rope_theta),
        "rope_scaling": None if scaling.factor == 1 else llama3,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
    }
    return data | dict(family.off) | {key: special_tokens.get(key) for key in SPECIAL_TOKENS}
