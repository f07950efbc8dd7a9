"""Who writes in a training run: the teacher of any of its rounds, in this process or on a vLLM server of the run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config, Teacher
from teacher.records import Writer
from teacher.run.checkpoints import checkpoint_of
from teacher.writers.endpoint import EndpointWriter, load_endpoint
from teacher.writers.local import TransformersWriter, load_teacher
from teacher.writers.vllm_server import STATE_FILE, VllmServer, find_vllm, plan_launch


def check_writer(teacher: Teacher, *, on_server: bool) -> None:
    """Raises UserError for a `teacher.writer` that cannot be trained, and where vLLM is to write and is not here."""
    if teacher.writer == "endpoint":
        raise UserError(
            "teacher.writer 'endpoint' cannot be trained: its weights are not here; train with 'transformers' or"
            " 'vllm', and curate with the endpoint"
        )
    if on_server:
        find_vllm()


class Writers:
    """The teacher of each round, one in memory at a time beside the untrained one; the vLLM server starts with the
    first request for a writer, and ends with the block."""

    def __init__(self, config: Config, *, on_server: bool) -> None:
        self.config, self.on_server = config, on_server
        """Whether vLLM writes. A trainer that samples by itself has its vLLM inside; what else is sampled then is
        little enough for transformers."""
        self._folder = config.run.dir / "vllm"
        self._server: VllmServer | None = None
        self._base: Path | None = None
        """The checkpoint that the server was started with; None: the base model."""
        self._trainable: tuple[int, TransformersWriter] | None = None
        self._untrained: Writer = self._on_server(0) if self.on_server else load_teacher(config.teacher)
        # Tokens are counted also before the server runs.
        self.tokenizer, self.count_tokens = self._untrained.tokenizer, self._untrained.count_tokens

    def of(self, round: int) -> Writer:
        """The teacher after `round` (0: untrained), to sample from. Raises RunError where vLLM does not start."""
        if self.on_server:
            self._serve(round)
            return self._on_server(round) if round else self._untrained
        if self._trainable is not None and self._trainable[0] == round:
            return self._trainable[1]
        return load_teacher(self.config.teacher, self._checkpoint(round)) if round else self._untrained

    @contextmanager
    def training(self, round: int) -> Iterator[Callable[[], TransformersWriter]]:
        """A block that trains the teacher after `round`, which the function that it gets returns. Where no server
        writes, one model in memory both samples and is trained. It is freed; the next round loads its checkpoint."""

        def load() -> TransformersWriter:
            if self._trainable is None:
                seed = self.config.run.seed
                self._trainable = round, load_teacher(self.config.teacher, self._checkpoint(round), train_seed=seed)
            return self._trainable[1]

        if not self.on_server:
            load()
        try:
            yield load
        finally:
            self._trainable = None

    def close(self) -> None:
        """Ends the server."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _checkpoint(self, round: int) -> Path | None:
        return checkpoint_of(self.config.run.dir, round)

    def _serve(self, round: int) -> None:
        """Brings the teacher of this round to the server. An adapter is loaded while the server runs; for a whole model
        the server starts anew."""
        lora, checkpoint = self.config.teacher.lora, self._checkpoint(round)
        base = checkpoint if lora is None else None
        if self._server is not None and self._base != base:
            self.close()
        if self._server is None:
            settings, seed = self.config.serving, self.config.run.seed
            launch = plan_launch(self.config.teacher, settings, seed, base, lora.rank if lora else None)
            self._server, self._base = VllmServer(settings, launch, self._folder), base
            self._server.start()
        if lora is not None and checkpoint is not None:
            self._server.load(checkpoint.name, checkpoint)

    def _on_server(self, round: int) -> EndpointWriter:
        checkpoint = self._checkpoint(round)
        name = "base" if checkpoint is None or self.config.teacher.lora is None else checkpoint.name
        state = self._folder.absolute() / STATE_FILE
        return load_endpoint(self.config.teacher, self.config.serving, checkpoint, state, model=name)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
