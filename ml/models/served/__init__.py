"""Models that an external engine computes, such as vLLM: Gloss asks it for log-probabilities over HTTP.

address.py        where an engine is, and what it calls the model
options.py        what a deployment decides: key, concurrency, patience
client.py         requests to its replicas: in flight, retried, cancelled
exchange.py       one of them, and what became of it
window.py         how many prompts are in flight, and whose are next
completions.py    the API's messages: what is asked of sequences, and what comes back
asking.py         one query with its answers
salts.py          what keeps tenants apart in an engine's prefix cache
abilities.py      what an engine was seen to do
tokenizer.py      the model's tokenizer, from its own files
agreement.py      whether the tokenizer is the engine's
fingerprint.py    how far the engine's numbers are noise, and whether its model is still the same
reading.py        which sequences to ask about for log-probabilities of continuations
texts.py          the same where a text is generated
carried.py        prompts that go with each request, which identify the model that answers
stream.py         many requests under way, whose answers are let through where the model is the same
probe.py          small questions, by which its abilities are found
opening.py        from an address to all of this
model.py          the model that explainers see

Nothing here imports torch.
"""
