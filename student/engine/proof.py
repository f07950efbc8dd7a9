"""The engine proves itself on the model at hand: a few short texts are trained on and scored as those of students, and
then each alone in the model's own forward pass.

Which families read the borders of packed texts from position ids, keep a state that answers can take over, or compute
as well in bfloat16 is no list here, since such a list is out of date the day it is written. What is held against the
plain model is the loss of each text, with neighbours on its left and right and beside padding, and the gradient of the
adapters of two students (in `mode: full`, of all weights). A leak changes the gradient by a third or more, rounding in
float32 by less than a hundred thousandth (all causal language models of transformers with tiny random weights: see
student/BENCHMARKS.md).
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Student
from student.engine.encoding import Encoded
from student.engine.lora import AdapterStack
from student.engine.memory import free_bytes, is_out_of_memory
from student.engine.models import attend_in_float32, has_bfloat16, load_model, load_student, within_positions
from student.engine.packing import Piece, pack
from student.engine.scores import Candidates, Scorer
from student.engine.training import batch_loss
from student.records import Proof

log = logging.getLogger(__name__)

ONE_TEXT = 1
"""`row_tokens` of rows that hold one text each: no second one fits."""

LENGTHS, SLOTS = (9, 7, 6), (0, 0, 1)
"""Tokens and student of each text: the first two share a row where rows are packed."""

ANSWERS = ((5, (3, 1)), (8, (2, 4)))
"""Tokens of a question's prompt, and of its gold answer and its distractor."""

MOST_TOKENS = 64
"""Of a pass: all texts are in one."""

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Relative differences in float32 that are rounding: at most 3e-7 and 6e-6 in any family."""

ROUNDINGS = 40
"""Results that a layer rounds on the way of one token, about 20 to its output and 20 back: norms, rotary embedding, the
products of attention and of the feed-forward part with those of their adapters, what joins them."""

ROUNDING = 2**-9 / math.sqrt(3)
"""Root mean square of the relative error of one rounding to the 8 significant bits of bfloat16."""

MARGIN = 4.0
"""A step may differ from float32 by so many times what independent roundings add up to: n of them to sqrt(n) times one.
Errors of kernels are far beyond: one that drops a term or reads a wrong row changes a gradient by its own size."""


def proved_scorer(
    settings: Student,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[Scorer, Proof]:
    """The base of students, loaded unless it is given, as what scores texts by it and by the students of its stack; its
    settings have texts and rows as the model allows. In `mode: full` there is no stack.

    bfloat16 that `student.dtype: auto` chose on a CPU has to agree with float32; else the base is in float32, and a
    line of the log says so. Raises UserError as `load_model`, for an adapter's target that does not exist, and as
    `prove`.
    """
    given = model is not None and tokenizer is not None
    if model is None or tokenizer is None:
        model, tokenizer = load_student(settings)
    attend_in_float32(model)
    settings = within_positions(settings, model.config)
    stack = AdapterStack(model, settings.lora) if settings.mode == "lora" else None
    scorer = Scorer(model, tokenizer, stack, settings)
    auto, device = settings.dtype == "auto", model.device.type
    # All weights in training stay float32, and `auto` computes their products in bfloat16 where that is faster.
    autocast = auto and settings.mode == "full" and model.dtype == torch.float32 and has_bfloat16(device)
    in_bfloat16 = auto and device == "cpu" and model.dtype == torch.bfloat16
    proof = prove(scorer, rounded=autocast or in_bfloat16)
    name = _name(scorer)
    if not proof.agrees:
        log.warning("students of %s are trained in float32: bfloat16 fails its check, %s", name, proof)
        if in_bfloat16:
            if stack is not None:
                stack.detach()
            exact = model.float() if given else load_model(settings.model, device=device, dtype="float32")[0]
            return proved_scorer(settings, exact, tokenizer)
    level = logging.INFO if proof.packed and not proof.left_out else logging.WARNING
    log.log(level, "students of %s: %s", name, proof)
    scorer.autocast = autocast and proof.agrees
    return scorer, proof


def prove(scorer: Scorer, *, rounded: bool = False) -> Proof:
    """What of the engine is exact on this model, and with `rounded` how far bfloat16 is off (that of its weights, or of
    autocast). It takes 2 s of a core on SmolLM2-135M, 0.1 s on the lab's students. Without a stack only losses are
    compared, or in `mode: full` the gradients of all weights.

    Weights in bfloat16 are compared in float32, where that fits in memory: rounding would hide what texts see of each
    other. Layers that cannot carry an adapter lose theirs, and the scorer packs rows and shares prompts from now on
    where it may; else the model and torch's random state are left as they were. Raises UserError for a model whose
    students would not be what they are alone, or whose code fails.
    """
    model, settings = scorer.model, scorer.settings
    name = _name(scorer)
    narrow = _in_bfloat16(model)
    fits = 4 * sum(tensor.numel() for tensor in narrow) <= free_bytes(model.device)
    roundings = ROUNDINGS * model.config.get_text_config().num_hidden_layers
    most = MARGIN * math.sqrt(roundings) * ROUNDING
    tolerances = (LOSS_TOLERANCE, GRADIENT_TOLERANCE) if fits else (most, most)
    rounding = None
    try:
        with _Probe(scorer) as probe:
            with _float32(narrow if fits else []):
                alone = probe.alone()
                left_out = probe.leave_out_bypassed()
                if left_out:
                    alone = probe.alone()
                single = probe.engine(ONE_TEXT)
                if not single.within(alone, tolerances):
                    raise UserError(f"{name} cannot be a student: {probe.why(single, alone)}")
                packed = _attempt(lambda: probe.engine(MOST_TOKENS).within(alone, tolerances), "no packed rows", name)
                shares = _attempt(lambda: probe.shared_prompts() <= tolerances[0], "no shared prompts", name)
            if rounded and fits:
                with torch.autocast(model.device.type, torch.bfloat16, enabled=not narrow):
                    rounding = max(probe.engine(MOST_TOKENS if packed else ONE_TEXT).beside(alone))
    except UserError:
        raise
    except Exception as failure:  # a family's own code fails in its own way
        if is_out_of_memory(failure):
            raise
        raise UserError(f"{name} cannot be a student: its code fails, {_first_line(failure)}") from failure
    scorer.shares_prompts = shares
    if not packed:
        scorer.settings = settings.model_copy(update={"row_tokens": ONE_TEXT})
    dtype = str(model.dtype).removeprefix("torch.")
    return Proof(dtype, packed, shares, left_out, rounding, most)


def _name(scorer: Scorer) -> str:
    """A model's name and class."""
    name = scorer.settings.model or scorer.model.name_or_path or "a model without a name"
    return f"{name} ({type(scorer.model).__name__})"


class _Step(NamedTuple):
    """One training step on the probe's texts."""

    loss_N: Tensor
    """Of each text, in nats a token."""
    gradients: list[Tensor]

    def beside(self, exact: "_Step") -> tuple[float, float]:
        """Relative differences: the largest of the losses, and that of the gradients by their norms."""
        loss = ((self.loss_N - exact.loss_N).abs() / exact.loss_N.abs()).max()
        pairs = zip(self.gradients, exact.gradients, strict=True)
        apart = sum(float((a - b).square().sum()) for a, b in pairs)
        whole = sum(float(b.square().sum()) for b in exact.gradients)
        if not self.gradients:
            return float(loss), 0.0
        return float(loss), math.sqrt(apart / whole) if whole else math.inf

    def within(self, exact: "_Step", tolerances: tuple[float, float]) -> bool:
        return all(a <= most for a, most in zip(self.beside(exact), tolerances, strict=True))  # not so with NaN


class _Probe:
    """Texts of random ordinary tokens, and the ways to compute them. Within it what is trained wants gradients."""

    def __init__(self, scorer: Scorer):
        self.scorer, self.model, self.stack = scorer, scorer.model, scorer.stack
        self.trains_all = scorer.settings.mode == "full"
        tokenizer = scorer.tokenizer
        rows = min(len(tokenizer), self.model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr, arg-type]
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        self._ordinary = [token for token in range(rows) if token not in special]
        self._generator = torch.Generator().manual_seed(0)
        texts = [self._text(length) for length in LENGTHS]
        shares = [1 / len(text.labelled) for text in texts]
        self.pieces = [Piece(*of_text) for of_text in zip(SLOTS, texts, shares, range(len(texts)), strict=True)]

    def __enter__(self) -> Self:
        model, self._exits = self.model, ExitStack()
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        self._exits.callback(lambda: [p.requires_grad_(w) for p, w in zip(model.parameters(), wanted, strict=True)])
        model.requires_grad_(self.trains_all)
        self._exits.enter_context(torch.random.fork_rng([model.device] if model.device.type == "cuda" else []))
        self._exits.enter_context(torch.enable_grad())
        # Where a GPU shortens float32 to 10 bits, rounding looks like a neighbour.
        self._exits.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
        return self

    def __exit__(self, *_: object) -> None:
        if self.stack is not None:
            self.stack.release()
        self.model.zero_grad(set_to_none=True)
        self._exits.close()

    def _text(self, length: int) -> Encoded:
        places = torch.randint(len(self._ordinary), (length,), generator=self._generator).tolist()
        return Encoded.of([self._ordinary[place] for place in places], [True] * length)

    def alone(self) -> _Step:
        """Each text by itself in the model's own forward pass, with its student's adapters in plain operations. Makes
        fresh students, as `engine` has them too."""
        if self.stack is not None:
            self.stack.allocate(list(range(1 + max(SLOTS))))
            assert self.stack.all_slots is not None
            generator = torch.Generator().manual_seed(1)
            for _, b_KrO in self.stack.all_slots.adapters:  # at B = 0 the gradient of A would be zero
                b_KrO.detach().copy_(torch.rand(b_KrO.shape, generator=generator).sub_(0.5).mul_(0.02))
        losses = []
        for piece in self.pieces:
            with self._adapters(piece.slot):
                ids = torch.from_numpy(piece.text.ids).to(self.model.device)
                logits = self.model(input_ids=ids[None], use_cache=False).logits[0].float()
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], ids[1:]))
        return self._step(torch.stack(losses))

    def engine(self, row_tokens: int) -> _Step:
        """All texts as students are trained on them, in rows of so many tokens."""
        device, slots = self.model.device, 1 + max(SLOTS)
        loss_N = torch.zeros(len(self.pieces), device=device)
        limits = {"max_tokens": MOST_TOKENS, "row_tokens": row_tokens}
        for batch in pack(self.pieces, slots, self.scorer.pad_id, device, **limits):
            with self.stack.using(batch.rows) if self.stack else nullcontext():
                loss, nll_N, _ = batch_loss(self.model, batch)
                if loss.requires_grad:
                    loss.backward()
            loss_N.index_add_(0, batch.tag_N, nll_N * batch.share_N)
        return self._step(loss_N)

    def shared_prompts(self) -> float:
        """The largest relative difference of scores of answers that share the computation of their prompt."""
        questions = []
        for tag, (shared, answers) in enumerate(ANSWERS):
            prompt = self._text(shared).ids.tolist()
            ids = [prompt + self._text(length).ids.tolist() for length in answers]
            questions.append(Candidates.of(0, tag, [Encoded.of(of_text, [True] * len(of_text)) for of_text in ids]))
        together = [score for scores in self.scorer.together(questions, False, MOST_TOKENS) for score in scores]
        texts = [text for question in questions for text in question.texts]
        apart = [self.scorer.texts([(0, text)], False, MOST_TOKENS)[0] for text in texts]
        return max(abs(a.loglik / b.loglik - 1) for a, b in zip(together, apart, strict=True))

    def leave_out_bypassed(self) -> tuple[str, ...]:
        """Takes the adapters off layers that are read and never called; last parts of their names."""
        layers = self.stack.layers if self.stack else {}
        names = [name for name, layer in layers.items() if layer.bypassed]
        if self.stack is not None and names:
            self.stack.leave_out(names)
            if not self.stack.layers:
                kind = type(self.model).__name__
                raise UserError(f"student.lora.target: the code of a {kind} reads the weights of these layers itself")
        return tuple(dict.fromkeys(name.rpartition(".")[2] for name in names))

    @torch.no_grad()
    def why(self, step: _Step, alone: _Step) -> str:
        """Why rows of one text are not exact."""
        ids = torch.from_numpy(self.pieces[0].text.ids).to(self.model.device)[None]
        hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        ours, logits = self.scorer.head(hidden), self.model(input_ids=ids, use_cache=False).logits
        if not float((ours - logits).norm() / logits.norm()) <= LOSS_TOLERANCE:
            return "it changes its logits after the output layer, or its states before it"
        loss, gradient = step.beside(alone)
        if math.isinf(gradient):
            return "no adapter has a gradient"
        return f"one text a row differs from the text alone by {loss:.1%} in loss and {gradient:.1%} in gradient"

    def _step(self, loss_N: Tensor) -> _Step:
        """Takes the gradients, those of losses that still have a graph computed first."""
        if loss_N.requires_grad:
            loss_N.sum().backward()
        gradients = []
        if self.stack is not None:
            gradients = [self.stack.grads_KP.clone()]
            self.stack.grads_KP.zero_()
        if self.trains_all:
            none = torch.zeros(1, device=self.model.device)
            gradients = [none if p.grad is None else p.grad for p in self.model.parameters()]
            self.model.zero_grad(set_to_none=True)
        return _Step(loss_N.detach(), gradients)

    @contextmanager
    def _adapters(self, slot: int) -> Iterator[None]:
        """Within it each wrapped layer adds its adapter of one student, by autograd's own operations."""
        handles = []
        for layer in self.stack.layers.values() if self.stack else ():
            a_rI, b_rO = (weight[slot] for weight in self.stack.all_slots.adapters[layer.number])  # type: ignore[union-attr]

            def add(_: Any, inputs: Any, output: Tensor, a_rI: Tensor = a_rI, b_rO: Tensor = b_rO) -> Tensor:
                return output + self.stack.scale * (inputs[0] @ a_rI.t().to(output.dtype)) @ b_rO.to(output.dtype)  # type: ignore[union-attr]

            handles.append(layer.register_forward_hook(add))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _attempt(test: Callable[[], bool], without: str, name: str) -> bool:
    """Whether a way of computing passes its test; one that fails does not."""
    try:
        return test()
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        log.info("%s: %s, %s", name, without, _first_line(failure))
        return False


def _first_line(failure: Exception) -> str:
    return f"{type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"


def _in_bfloat16(model: PreTrainedModel) -> list[Tensor]:
    return [t for t in (*model.parameters(), *model.buffers()) if t.dtype == torch.bfloat16]


@contextmanager
def _float32(tensors: list[Tensor]) -> Iterator[None]:
    """Within it these tensors are in float32; afterwards they have their bits again."""
    data = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, own in zip(tensors, data, strict=True):
            tensor.data = own
