# The types of the names in __init__.py; `python -m tests.house` writes this file.
from longctx import hf as hf
from longctx import layouts as layouts
from longctx.catalogue import Catalogue
from longctx.checkpoints.checkpointer import Checkpointer as Checkpointer
from longctx.config import AttentionConfig as AttentionConfig
from longctx.config import Config as Config
from longctx.config import MeshConfig as MeshConfig
from longctx.config import ModelConfig as ModelConfig
from longctx.config import RopeConfig as RopeConfig
from longctx.context_parallel.api import attend as attend
from longctx.context_parallel.api import attention as attention
from longctx.devices import mesh as mesh
from longctx.devices import simulate as simulate
from longctx.generation.api import generate as generate
from longctx.generation.api import stream as stream
from longctx.meshes import all_context as all_context
from longctx.model.functional import graph as graph
from longctx.model.functional import init as init
from longctx.model.functional import logits as logits
from longctx.model.functional import nll as nll
from longctx.training import compile_step as compile_step
from longctx.training import init_state as init_state
from longctx.training import train_step as train_step
from pallas_kernels.attention.pair import Inputs as Inputs
from pallas_kernels.attention.pair import Pair as Pair
from pallas_kernels.attention.pair import merge as merge
from pallas_kernels.attention.spec import AttentionSpec as AttentionSpec
from pallas_kernels.masks import Beyond as Beyond
from pallas_kernels.masks import Causal as Causal
from pallas_kernels.masks import Chunked as Chunked
from pallas_kernels.masks import Full as Full
from pallas_kernels.masks import PrefixLM as PrefixLM
from pallas_kernels.masks import Segments as Segments
from pallas_kernels.masks import Sinks as Sinks
from pallas_kernels.masks import TokenInfo as TokenInfo
from pallas_kernels.masks import Window as Window
from pallas_kernels.masks import parse as parse_mask

NAMES: dict[str, str]
REGISTRIES: dict[str, str]
STRATEGIES: Catalogue
KERNELS: Catalogue
MASKS: Catalogue
LAYOUTS: Catalogue
SCALINGS: Catalogue
METHODS: Catalogue
EXTENSIONS: Catalogue
AUGMENTATIONS: Catalogue
REMAT_POLICIES: Catalogue
EVALS: Catalogue
__all__ = [
    "attention",
    "attend",
    "merge",
    "Pair",
    "Inputs",
    "AttentionSpec",
    "TokenInfo",
    "Causal",
    "Window",
    "Sinks",
    "Beyond",
    "Chunked",
    "PrefixLM",
    "Segments",
    "Full",
    "parse_mask",
    "mesh",
    "all_context",
    "simulate",
    "layouts",
    "Config",
    "ModelConfig",
    "AttentionConfig",
    "MeshConfig",
    "RopeConfig",
    "graph",
    "init",
    "logits",
    "nll",
    "init_state",
    "compile_step",
    "train_step",
    "Checkpointer",
    "generate",
    "stream",
    "hf",
    "STRATEGIES",
    "KERNELS",
    "MASKS",
    "LAYOUTS",
    "SCALINGS",
    "METHODS",
    "EXTENSIONS",
    "AUGMENTATIONS",
    "REMAT_POLICIES",
    "EVALS",
]
