"""The sizes of released models: their parameter counts, to the last one, are the published ones."""

import math

import jax
import pytest

from asyncthink_jax.model import transformer
from asyncthink_jax.model.presets import PRESETS

PARAMETERS = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_of_the_released_model(name):
    shapes = transformer.abstract_params(PRESETS[name])
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_what_no_parameter_shows_is_that_of_the_family():
    for name, config in PRESETS.items():
        qwen, llama3 = name.startswith("Qwen3"), name.startswith("Llama-3")
        assert config.qk_norm == qwen
        assert config.norm_eps == (1e-6 if qwen else 1e-5)
        assert (config.rope_scaling.factor > 1) == llama3
        assert config.rope_theta in ((1e6,) if qwen else (5e5,) if llama3 else (1e5, 1.3e5))
        assert config.dtype == "float32"
