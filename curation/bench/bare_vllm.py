"""vLLM by itself, as `curation.bench.vllm` runs it: `LLM.generate` and nothing around it.

    .venv/vllm/bin/python -P curation/bench/bare_vllm.py ARGUMENTS...     (those of `vllm serve`)

It runs in the environment that has vLLM, so it imports nothing of the project. Each line of stdin is a JSON object of
`prompts` (token ids) and `sampling` (of each prompt). Each is answered by a line on stdout with the seconds that
`generate` took, the tokens it wrote and those it read.
"""

import json
import os
import sys
import time


def main() -> None:
    """Answers lines until stdin ends."""
    # vLLM logs to stdout, here and in its engine: that goes to stderr, and the answers to where stdout went.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from vllm import LLM, EngineArgs, SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments, server_arguments = parser.parse_known_args(sys.argv[1:])
    assert all(name.startswith("--disable-uvicorn") for name in server_arguments), server_arguments
    model = LLM.from_engine_args(EngineArgs.from_cli_args(arguments))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
        sampling = [SamplingParams(**parameters) for parameters in request["sampling"]]
        start = time.perf_counter()
        outputs = model.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        written = sum(len(output.outputs[0].token_ids) for output in outputs)
        read = sum(len(output.prompt_token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "tokens": written, "prompt_tokens": read}), file=answers)


if __name__ == "__main__":
    main()
