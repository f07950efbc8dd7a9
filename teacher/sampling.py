"""Documents in, gated rewrites out: what training, curation and previews share."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from configs.schema import Teacher
from student.records import Document
from teacher.gates import Gate, check
from teacher.records import Rewrite, Writer
from teacher.strategies import build_prompt, parse_completion, spread


def sample_rewrites(
    writer: Writer,
    tokenizer: PreTrainedTokenizerBase,
    settings: Teacher,
    documents: Sequence[Document],
    n: int,
    seed: int,
    gates: Iterable[Gate],
    max_prompt_tokens: int | None = None,
) -> list[list[Rewrite]]:
    """`n` rewrites of every document, gated, in the order of `documents`.

    Under `strategy` prompting a document's samples are spread evenly over the strategies, and the first of them rotates
    from document to document.
    """
    if settings.prompting == "policy":
        prompts = [build_prompt(tokenizer, settings, document, None, max_prompt_tokens) for document in documents]
        written = writer.write(prompts, n, seed)
        strategies = [[""] * n for _ in documents]
        prompts_DG = [[prompt] * n for prompt in prompts]
    else:
        strategies = [spread(settings.strategies, n, offset) for offset in range(len(documents))]
        prompts_DG = [
            [build_prompt(tokenizer, settings, document, name, max_prompt_tokens) for name in names]
            for document, names in zip(documents, strategies, strict=True)
        ]
        flat = iter(writer.write([prompt for prompts in prompts_DG for prompt in prompts], 1, seed))
        written = [[next(flat)[0] for _ in range(n)] for _ in documents]
    return [
        [
            make_rewrite(settings, document, prompt, completion, strategy, gates)
            for prompt, completion, strategy in zip(prompts, completions, names, strict=True)
        ]
        for document, prompts, completions, names in zip(documents, prompts_DG, written, strategies, strict=True)
    ]


def make_rewrite(
    settings: Teacher, document: Document, prompt: str, completion: str, strategy: str, gates: Iterable[Gate]
) -> Rewrite:
    """The record of one completion: its strategy, lesson text and the first gate's verdict."""
    known = settings.strategies if settings.prompting == "policy" else (strategy,)
    name, text = parse_completion(settings.prompting, completion, known)
    return Rewrite(
        document_id=document.id,
        strategy=name,
        text=text,
        completion=completion,
        prompt=prompt,
        rejected=check(document, text, gates),
    )
