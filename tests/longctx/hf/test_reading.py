"""hf.load reads files: names in the index, numbers that a narrower dtype does not hold, and memory for them."""

import json

import ml_dtypes
import numpy as np
import pytest

from longctx import hf, meshes
from longctx.config import MeshConfig
from longctx.errors import UserError
from longctx.hf import files, parameters
from tests.longctx.hf import tiny

NORM = "model.norm.weight"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a/../../b",
        "sub/x.safetensors",
        "",
        ".",
        "..",
        "x\0",
        7,
        None,
        ["x"],
        {"x": 1},
        True,
    ],
)
def test_an_index_names_files_beside_it(tmp_path, name):
    folder = tiny.write(tmp_path / "model", "llama", max_shard_size=20_000)
    (tmp_path / "secret.safetensors").write_bytes(sorted(folder.glob("*.safetensors"))[0].read_bytes())
    index = json.loads((folder / files.INDEX).read_text())
    index["weight_map"][NORM] = name
    (folder / files.INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="weight_map: model.norm.weight=.* must be the name of a file") as error:
        hf.model_config(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["7", "[1]", '{"weight_map": 7}', '{"weight_map": [1]}', "[" * 100_000])
def test_an_index_of_another_type(tmp_path, content):
    folder = tiny.write(tmp_path, "llama", max_shard_size=20_000)
    (folder / files.INDEX).write_text(content)
    with pytest.raises(UserError) as error:
        hf.model_config(folder)
    assert files.INDEX in str(error.value) and "\n" not in str(error.value)


def test_links_out_of_the_folder_are_followed(tmp_path):
    """A cache of Hugging Face is made of them."""
    folder = tiny.write(tmp_path / "model", "llama", max_shard_size=20_000)
    (tmp_path / "blobs").mkdir()
    for path in folder.glob("*.safetensors"):
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(tmp_path / "blobs" / path.name)
    assert len(files.tensors(folder)) == len(tiny.tensors("llama"))


@pytest.mark.parametrize(
    "stored, value, asked, settings, part",
    [
        (ml_dtypes.bfloat16, 1e5, "float16", {}, "holds 99840, and the largest number of float16 is 65504"),
        (np.float32, -1e5, "float16", {}, "holds -100000, and the largest number of float16 is 65504"),
        (np.float32, 1e5, None, {"dtype": "float16"}, "holds 100000, and the largest number of float16 is 65504"),
        (np.float32, 3.4e38, "bfloat16", {}, "holds 3.4e.38, and the largest number of bfloat16"),
        (np.float64, 1e39, "float32", {}, "holds 1e.39, and the largest number of float32"),
    ],
)
def test_numbers_that_would_become_infinite(tmp_path, stored, value, asked, settings, part):
    values = {name: x.astype(stored) for name, x in tiny.tensors("llama").items()}
    values[NORM][3] = value
    tiny.write(tmp_path, "llama", values, **{"dtype": "float32"} | settings)
    with pytest.raises(UserError, match=f"{NORM} {part}"):
        hf.load(tmp_path, dtype=asked)


def test_infinite_numbers_stay(tmp_path):
    values = tiny.tensors("llama")
    values[NORM][:2] = np.inf, np.nan
    scale = np.asarray(hf.load(tiny.write(tmp_path, "llama", values), dtype="float16").params["norm"]["scale"])
    assert np.isinf(scale[0]) and np.isnan(scale[1]) and np.isfinite(scale[2:]).all()


def test_parameters_are_priced_before_they_are_read(tmp_path, monkeypatch):
    folder = tiny.write(tmp_path, "llama")
    bytes_of = lambda dtype: sum(value.size for value in tiny.tensors("llama").values()) * np.dtype(dtype).itemsize
    monkeypatch.setattr(parameters, "free_memory", lambda: bytes_of("float32") - 1)
    monkeypatch.setattr(parameters, "load", lambda *args: pytest.fail("it was read"))
    with pytest.raises(UserError, match="need 0.1 MB of this .*, and 0.1 MB are free. dtype='bfloat16' needs"):
        hf.load(folder)
    monkeypatch.setattr(parameters, "free_memory", lambda: bytes_of("float16") - 1)
    with pytest.raises(UserError, match="are free. it takes a mesh of more devices or a larger machine"):
        hf.load(folder, dtype="float16")


def test_copies_on_simulated_devices_are_counted(tmp_path, monkeypatch):
    """Two data-parallel simulated devices each hold the whole model, in one memory."""
    folder, whole = tiny.write(tmp_path, "llama"), 4 * sum(value.size for value in tiny.tensors("llama").values())
    monkeypatch.setattr(parameters, "free_memory", lambda: whole * 3 // 2)
    hf.load(folder)
    with pytest.raises(UserError, match="are free"):
        hf.load(folder, mesh=meshes.make(MeshConfig(data=2)))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    planned = {"w": files.Planned((2,), np.dtype(np.float32))}
    with pytest.raises(UserError, match="gone/model.safetensors cannot be written: .*No such file") as caught:
        files.write(tmp_path / "gone", planned, lambda name: np.zeros(2, np.float32), 10**9)
    assert "\n" not in str(caught.value)
