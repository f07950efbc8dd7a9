"""What samples rewrites: this process, a vLLM server, an OpenAI-compatible endpoint."""
