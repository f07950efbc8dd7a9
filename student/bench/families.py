"""Every family of causal language models that the installed transformers has, with tiny random weights: what the
engine shows of itself on it, held against separate forward passes and PEFT.

    python -m student.bench.families                   the table of BENCHMARKS.md, in half a minute of a core
    python -m student.bench.families opt mamba
"""

import copy
import logging
import math
import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2Tokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.errors import UserError, nearest
from configs.schema import Lora, Student
from student.engine.encoding import Encoded
from student.engine.lora import peft_config
from student.engine.packing import Piece, pack
from student.engine.proof import proved_scorer
from student.engine.scores import Scorer
from student.engine.training import batch_loss
from student.records import Proof

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""Names of all families, as transformers has them."""

VOCABULARY = 96
MOST_PARAMETERS = 8_000_000
MOST_SECONDS = 20.0
"""Of a core, for one family: most take 0.2."""
SETTINGS = Student(lora=Lora(rank=2, alpha=4.0), dtype="float32")

_NAMES_BY_VALUE = {
    32: "hidden_size d_model n_embd dim word_embed_proj_dim embedding_size",
    48: "intermediate_size ffn_dim n_inner d_ff decoder_ffn_dim encoder_ffn_dim block_ff_dim ffn_hidden_size "
    "intermediate_size_mlp expert_ffn_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
    "num_encoder_layers depth num_key_value_heads num_experts_per_tok moe_k linear_num_key_heads bos_token_id",
    4: "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
    "encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
    "linear_num_value_heads",
    24: "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size",
    16: "q_lora_rank kv_lora_rank sliding_window mamba_chunk_size chunk_size attention_chunk_size",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim rotary_dim state_size mamba_d_state mamba_n_heads "
    "mamba_d_head ssm_state_size linear_key_head_dim linear_value_head_dim linear_head_dim mamba_num_heads "
    "mamba_head_dim mamba_headdim",
    1: "n_group topk_group first_k_dense_replace mamba_n_groups pad_token_id",
    128: "max_position_embeddings n_positions max_seq_len",
    3: "eos_token_id",
}  # fmt: skip
SIZES: dict[str, Any] = {name: value for value, names in _NAMES_BY_VALUE.items() for name in names.split()}
SIZES |= {"vocab_size": VOCABULARY, "is_decoder": True}  # encoders that can be decoders, such as BERT
"""Small values of the settings that families share by name."""

_RECURRENT_FIRST = {"layer_types": ["linear_attention", "full_attention"]}
_SLIDING_FIRST = {"layer_types": ["sliding_attention", "full_attention"]}
ODD: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": _RECURRENT_FIRST,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _RECURRENT_FIRST),
    **{name: {"text_config": _RECURRENT_FIRST} for name in ("qwen3_5", "qwen3_5_moe")},
    **dict.fromkeys(("gemma3_text", "cohere2", "olmo3", "exaone4"), _SLIDING_FIRST),
    "gemma3": {"text_config": _SLIDING_FIRST},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
    "llama4": {"text_config": {"layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "kimi_linear": {"linear_num_heads": 4, **_RECURRENT_FIRST},
    "longcat_flash": {"moe_topk": 2, "zero_expert_num": 2},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0, "kv_n_heads": 2}},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 16},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": None,
    },
    "gemma4_text": {"vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8},
    "gemma4": {"text_config": {"vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8, **_SLIDING_FIRST},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "mamba2": {"num_heads": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "n_mamba_heads": 2,
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "xmod": {"default_language": "en_XX"},
}
"""Values of settings that some families need beside, in order to be built, causal or of all their kinds of layers."""


def tiny_config(kind: type[PretrainedConfig], odd: dict[str, Any] | None = None) -> PretrainedConfig:
    """A family's config with small values for all settings of `SIZES` that it has, in its parts too."""
    usual = kind()
    values = usual.to_dict()
    known = {*getattr(usual, "attribute_map", {}), *(name for name, value in values.items() if value is not None)}
    small = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in small:
        small["num_key_value_heads"] = small["num_attention_heads"]
    for name in kind.sub_configs:
        if isinstance(part := getattr(usual, name, None), PretrainedConfig):
            small[name] = tiny_config(type(part), (odd or {}).get(name))
    return kind(**small | {n: v for n, v in (odd or {}).items() if n not in kind.sub_configs})


def tiny_model(name: str) -> PreTrainedModel:
    """A family's model with random weights, large enough that every part matters. Raises whatever its code raises, and
    ValueError for one that stays large."""
    config = tiny_config(CONFIG_MAPPING[name], ODD.get(name))
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters at least")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().float()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.15)
    return model  # type: ignore[no-any-return]


def tiny_tokenizer() -> GPT2Tokenizer:
    """A tokenizer of as many words."""
    special = {"unk_token": "w0", "pad_token": "w1", "bos_token": "w2", "eos_token": "w3"}
    return GPT2Tokenizer(vocab={f"w{i}": i for i in range(VOCABULARY)}, merges=[], **special)


Verdict = Literal["packed", "single", "refused", "not tried"]

VERDICTS: dict[Verdict, str] = {
    "packed": "packed rows are exact",
    "single": "one text a row is exact",
    "refused": "refused",
    "not tried": "not tried: not built tiny, or too slow",
}


class Family(NamedTuple):
    """What a family came to."""

    name: str
    verdict: Verdict
    reason: str = ""
    """Why it is refused or was not tried; of one that serves, what it cannot do."""
    loss: float = 0.0
    """Largest difference from separate PEFT runs, as a share: of losses, gradients and scores of answers."""
    gradient: float = 0.0
    score: float = 0.0


class _TooSlow(BaseException):
    """No Exception, so that no part of the engine takes it for a failure of the model."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises _TooSlow after so many seconds of this process's own time. For the main thread."""

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def examine_family(name: str, most_seconds: float = MOST_SECONDS) -> Family:
    """The engine on a tiny model of a family, as a pool would start it, beside separate runs."""
    try:
        with _limited(most_seconds):
            try:
                model = tiny_model(name)
            except Exception as failure:  # a family's own code fails in its own way
                return Family(name, "not tried", _line(failure))
            plain = copy.deepcopy(model)
            try:
                scorer, proof = proved_scorer(SETTINGS, model, tiny_tokenizer())
            except UserError as refusal:
                reason = str(refusal).rpartition("cannot be a student: ")[2]
                return Family(name, "refused", shorten(reason, 120, placeholder=" ..."))
            verdict: Verdict = "packed" if proof.packed else "single"
            try:
                return Family(name, verdict, _limits(proof), *_beside_peft(scorer, plain))
            except Exception as failure:
                return Family(name, verdict, f"no comparison: {_line(failure)}", *[math.inf] * 3)
    except _TooSlow:
        return Family(name, "not tried", f"too slow: more than {most_seconds:g} s of a core")


def _limits(proof: Proof) -> str:
    words = [] if proof.shares_prompts else ["answers share no prompt"]
    return "; ".join([*words, *([f"no adapters on {', '.join(proof.left_out)}"] if proof.left_out else [])])


def _beside_peft(scorer: Scorer, plain: PreTrainedModel) -> tuple[float, float, float]:
    """The largest relative differences between three students of several texts each and separate runs with PEFT: of
    losses, of the gradients of each student, and of the log-likelihoods of answers after a shared prompt."""
    from peft import get_peft_model

    stack = scorer.stack
    assert stack is not None and not stack.n_slots
    generator = torch.Generator().manual_seed(2)

    def text(*lengths: int) -> Encoded:
        ids = torch.randint(5, VOCABULARY, (sum(lengths),), generator=generator).tolist()
        return Encoded.of(ids, [True] * len(ids))

    lengths = [(12, 3, 21), (5, 9), (17,)]
    texts = [(slot, text(length)) for slot, of_slot in enumerate(lengths) for length in of_slot]
    stack.allocate(list(range(len(lengths))))
    with torch.no_grad():
        stack.params_KP.normal_(std=0.2, generator=generator)
    # PEFT's rules for families by name leave layers out: Mamba's `out_proj`, what is fused elsewhere (AFMoE's gates).
    plain.config.model_type = ""
    with torch.random.fork_rng(devices=[]):
        student = get_peft_model(plain, peft_config(SETTINGS.lora, list(stack.layers))).eval()
    parameters = dict(student.named_parameters())
    of_layer = [[parameters[f"base_model.model.{name}.lora_{w}.default.weight"] for w in "AB"] for name in stack.layers]
    pieces = [Piece(slot, encoded, 1 / len(encoded.labelled), tag) for tag, (slot, encoded) in enumerate(texts)]
    losses = torch.zeros(len(texts))
    row_tokens, device = scorer.settings.row_tokens, torch.device("cpu")
    for batch in pack(pieces, len(lengths), scorer.pad_id, device, max_tokens=64, row_tokens=row_tokens):
        with torch.enable_grad(), stack.using(batch.rows):
            loss, nll_N, _ = batch_loss(scorer.model, batch)
            loss.backward()
        losses.index_add_(0, batch.tag_N, nll_N * batch.share_N)
    prompts = [text(7).ids.tolist() for _ in lengths]
    answers = [
        [Encoded.of(p + text(n).ids.tolist(), [False] * len(p) + [True] * n) for n in (3, 1, 4)] for p in prompts
    ]
    scores = scorer.answers(list(enumerate(answers)), True, 64)

    loss_off = gradient_off = score_off = 0.0
    for slot, of_slot in enumerate(answers):
        student.zero_grad()
        with torch.no_grad():
            for layer, (a_rI, b_Or) in zip(stack.layers.values(), of_layer, strict=True):
                a_rI.copy_(layer.a_KrI[slot])  # type: ignore[index]
                b_Or.copy_(layer.b_KrO[slot].t())  # type: ignore[index]
        for (owner, encoded), ours in zip(texts, losses.tolist(), strict=True):
            if owner == slot:
                with torch.enable_grad():
                    loss = _loglik(student, encoded).neg() / len(encoded.labelled)
                    loss.backward()
                loss_off = max(loss_off, abs(ours / loss.item() - 1))
        ours = [w.grad[slot].flatten() for layer in stack.layers.values() for w in (layer.a_KrI, layer.b_KrO)]  # type: ignore[union-attr, index]
        ours_P = torch.cat(ours)
        theirs_P = torch.cat([_gradient(w).flatten() for a_rI, b_Or in of_layer for w in (a_rI, b_Or)])
        gradient_off = max(gradient_off, float((ours_P - theirs_P).norm() / theirs_P.norm()))
        for encoded, score in zip(of_slot, scores[slot], strict=True):
            with torch.no_grad():
                score_off = max(score_off, abs(score.loglik_sum / _loglik(student, encoded).item() - 1))
    return loss_off, gradient_off, score_off


def _loglik(model: Any, text: Encoded) -> Tensor:
    """Of a text's labelled tokens, in the model's own forward pass over it alone."""
    ids = torch.from_numpy(text.ids)[None]
    logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    return logprobs[text.labelled - 1, ids[0, text.labelled]].sum()


def _gradient(parameter: Tensor) -> Tensor:
    """In the engine's order: (r, in) and (r, out)."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient if parameter.shape[0] == SETTINGS.lora.rank else gradient.t()


def _line(failure: Exception) -> str:
    return shorten(f"{type(failure).__name__}: {failure}", 120, placeholder=" ...")


def markdown(families: Sequence[Family]) -> str:
    """The table: verdicts with their families, and below what is refused or could not be built, and why."""
    import peft

    by_verdict, reasons = defaultdict(list), defaultdict(list)
    for family in families:
        by_verdict[family.verdict].append(family.name)
        if family.reason:
            reasons[family.verdict, family.reason].append(family.name)
    served = [family for family in families if family.verdict in ("packed", "single")]
    loss, gradient, score = (max((f[i] for f in served), default=0.0) for i in (3, 4, 5))
    lines = [
        f"{len(families)} families of transformers {transformers.__version__} (torch {torch.__version__}, peft"
        f" {peft.__version__}). Largest differences from separate PEFT"
        f" runs among the {len(served)} that serve: losses {loss:.0e}, gradients {gradient:.0e}, scores of answers"
        f" {score:.0e}.",
        "",
        "| | families | |",
        "|---|---|---|",
    ]
    for verdict, title in VERDICTS.items():
        lines.append(f"| {title} | {len(by_verdict[verdict])} | {', '.join(by_verdict[verdict])} |")
    lines += ["", "| | why, or what it cannot do | families |", "|---|---|---|"]
    lines += [f"| {verdict} | {reason} | {', '.join(names)} |" for (verdict, reason), names in sorted(reasons.items())]
    return "\n".join(lines)


def main() -> None:
    """The command `python -m student.bench.families`: examines the families named, or all, and prints the table."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    names = sys.argv[1:] or FAMILIES
    for name in names:
        if name not in FAMILIES:
            sys.exit(f"error: transformers has no causal language model {name!r}; {nearest(name, list(FAMILIES))}")
    families = []
    for number, name in enumerate(names, 1):
        families.append(examine_family(name))
        print(f"{number} of {len(names)}:", *families[-1], file=sys.stderr, flush=True)
    print(markdown(families))


if __name__ == "__main__":
    main()
